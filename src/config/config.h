#pragma once
// The configuration of a run as plain structs; one field per key of the YAML file, defaults as documented in
// docs/configuration.md. What is a key here but offers one value only (`latent: 1`) is so because this
// version implements one; any other value is refused by load_config.

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace strata {

struct RunConfig {
    std::string output;  // required
    std::uint64_t seed = 0;
    std::string device = "auto";            // auto | cpu | cuda
    std::string encoder = "auto";           // auto | float32 | tf32 | screened
    std::string screen_bound = "dithered";  // | certain
    bool reproducible = false;
    double watchdog = 60;             // seconds of silence of a rank after which all end; 0: never
    std::string time_limit = "auto";  // auto | empty: null | a time that seconds_in understands
    bool tensorboard = false;         // event files beside metrics.jsonl
    bool operator==(const RunConfig&) const = default;
};

struct DataConfig {
    std::vector<std::string> files;     // required; globs
    std::vector<std::string> datasets;  // required; names inside the files, globs
    // A dataset to reconstruct instead of the input; one `*` stands for the end of the input's name, after
    // its last '/'. Empty: null, the input itself.
    std::string target;
    std::string scale = "mean_square";  // mean_square | sqrt_dim | none | a positive number as text
    double max_norm_ratio = 10;         // 0: keep all
    std::int64_t eval_rows = 16384;
    std::int64_t shuffle_rows = 262144;
    std::int64_t lanes = 64;
    std::string stage = {};     // a folder of each host for copies of the files; empty: null, none
    bool skip_corrupt = false;  // corrupt rows are left out instead of ending the run
    bool operator==(const DataConfig&) const = default;
};

struct TrainConfig {
    std::int64_t batch_size = 4096;
    std::int64_t tokens = 10'000'000;
    std::int64_t log_every = 50;
    std::int64_t checkpoint_every = 1000;
    std::int64_t keep_checkpoints = 2;
    // Whole steps; the last may pass `tokens` by less than a batch.
    std::int64_t steps() const { return (tokens + batch_size - 1) / batch_size; }
    bool operator==(const TrainConfig&) const = default;
};

struct OptimizerConfig {
    std::string kind = "adam";  // adam | adam_schedule_free | signum
    std::optional<double> lr;   // nullopt: auto
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    std::string warmup = "linear";  // linear | cosine
    std::int64_t warmup_steps = 1000;
    double decay_fraction = 0.2;
    double clip_norm = 1.0;  // 0: off
    bool operator==(const OptimizerConfig&) const = default;
};

// Adaptive temporal masking: latents of low importance are left out at random while training.
struct AtmConfig {
    double decay = 0.99;  // of the moving averages
    double c = 1;         // the threshold is mean + c * standard deviation of the importances
    double r = 0.5;       // steepness of the probability below the threshold
    std::int64_t start_step = 1000;
    std::int64_t ramp_steps = 1000;                 // probabilities rise over so many steps; 0: at once
    std::string law = "latent";                     // latent | token
    std::string place = "before";                   // before | after the selection
    std::string combine = "mean";                   // mean | geometric
    std::vector<double> weights = {1.0, 1.0, 1.0};  // of activation, frequency, contribution
    bool operator==(const AtmConfig&) const = default;
};

// Coefficients and lengths with the unit of x or of its square are those for E|x|^2 = 1.
struct SaeConfig {
    std::string kind = "batch_topk";  // one of config::known_kinds()
    std::int64_t width = 16384;       // M, latents
    double k = 64;                    // topk, batch_topk, matryoshka: mean active latents per row
    double l1 = 0;                    // relu, gated: coefficient of the L1 penalty
    double l0 = 0;                    // jumprelu: coefficient of the L0 penalty; with l0_target 0 means 1
    std::optional<double> l0_target = {};   // jumprelu: L0 that the penalty aims at; nullopt: null
    double frequency = 0;                   // jumprelu: coefficient of the frequency penalty; 0: off
    double frequency_limit = 0.1;           // firing frequency above which it acts
    std::optional<double> bandwidth = {};   // jumprelu's window; nullopt: auto, see sae::bandwidth_of
    std::optional<double> theta_init = {};  // jumprelu's thresholds; nullopt: auto, see sae::Beginning
    std::string theta = "direct";           // jumprelu: direct | log, what is trained
    double threshold_fall = 1;  // relu, jumprelu, gated: halvings of a dead latent's in dead_after rows
    std::int64_t penalty_warmup_steps = 10000;
    std::string decoder = "unit";     // unit | free (relu only)
    std::int64_t resample_every = 0;  // relu, gated: steps; 0: never
    std::int64_t resample_warmup_steps = 1000;
    std::vector<double> prefixes = {};        // as written, see prefix_widths; empty: null
    bool skip = false;                        // x W_skip added to the reconstruction
    std::string init_from = {};               // folder of a saved SAE; empty: null
    std::string b_dec_init = "mean";          // mean | zero
    std::string encoder_init = "fit";         // fit | random: of transcoders, see sae::Encoding
    std::optional<double> encoder_norm = {};  // of its rows at the start; nullopt: auto, see sae::Beginning
    std::optional<std::int64_t> aux_k = {};   // nullopt: auto, see sae::auxiliary_codes; 0: off
    double aux_coefficient = 0.03125;
    std::optional<std::int64_t> dead_after_tokens = {};  // nullopt: auto, see sae::dead_after
    // batch_topk, matryoshka: at most row_cap * k codes of a row take part in the selection; 0: no cap
    std::int64_t row_cap = 0;
    std::string threshold_scope = "global";  // batch_topk, matryoshka: global | local
    std::optional<AtmConfig> atm = {};       // nullopt: null
    bool operator==(const SaeConfig&) const = default;
};

struct ParallelConfig {
    std::optional<std::int64_t> groups = {};        // of ranks, each with a job of its own; nullopt: auto
    std::optional<std::int64_t> data = {};          // ranks of a group, all of them replicas; nullopt: auto
    std::optional<std::int64_t> saes_per_job = {};  // at most so many SAEs on one stream; nullopt: auto
    // Rows of its batch that a GPU holds at a time (device::Device::hold_at_most()); nullopt: auto
    std::optional<std::int64_t> micro_batch = {};
    std::optional<std::int64_t> threads = {};  // per rank; nullopt: auto
    bool operator==(const ParallelConfig&) const = default;
};

struct Config {
    RunConfig run;
    DataConfig data;
    TrainConfig train;
    OptimizerConfig optimizer;
    std::vector<SaeConfig> saes;  // `sae`, or every combination of `suite` on top of it; at least one
    ParallelConfig parallel;
    bool operator==(const Config&) const = default;
};

// Reads and checks a YAML file. `overrides` are `dotted.key=value` with the value in YAML (flow) syntax, as
// given to --set; they are checked as strictly as the file. Relative paths stay as they are (relative to the
// working folder). Throws UsageError listing *every* error, one per line, as
//   file:line: key: what is wrong; what was expected; the nearest valid key
// (overrides: `--set key: ...`).
Config load_config(const std::string& path, const std::vector<std::string>& overrides);

// The full configuration with defaults filled in, as YAML that load_config reads back to an equal Config
// (`saes` as a suite when there are several) without keys that say nothing about any of its kinds, preceded
// by a comment with the version.
std::string to_yaml(const Config& config);

// One line that is equal for two configurations exactly if a checkpoint of one may be continued under the
// other: everything that decides the result, so not run.output, data.stage, data.skip_corrupt,
// train.log_every, train.checkpoint_every, train.keep_checkpoints, run.device, run.encoder, run.screen_bound,
// run.watchdog, run.time_limit, run.tensorboard, parallel.*.
std::string fingerprint(const Config& config);

// The keys in which two fingerprints differ, with both values, a line for each.
std::string differences(std::string_view then, std::string_view now);

// Seconds in "3600", "90:00" (minutes and seconds), "12:00:00" or "1-12:00:00" (with days), as Slurm writes
// times, but a lone number counts seconds. nullopt where `text` is none of these.
std::optional<std::int64_t> seconds_in(std::string_view text);

// When a run that begins at `start` must have ended by its run.time_limit: with auto, when its Slurm job
// ends, told by SLURM_JOB_END_TIME. nullopt: no limit.
std::optional<std::chrono::system_clock::time_point> end_of_run(const std::string& time_limit,
                                                                std::chrono::system_clock::time_point start);

// Cumulative widths of the prefixes, ascending, the last of them the whole width: the only one where
// `prefixes` is null, but for matryoshka, which then has fractions 1/32, 3/32, 7/32, 15/32 and 1 of it. A
// list whose last number is at most 1 holds fractions of the width, rounded to whole latents, at least one;
// prefixes that fall together count once.
std::vector<std::int64_t> prefix_widths(const SaeConfig& sae);

// Kind, width and sparsity, numbers printed shortest: `batch_topk.w16384.k64`, `relu.w4096.l1_0.01`,
// `jumprelu.w16384.l0_0.0006`, `jumprelu.w16384.l0t40` (l0_target), each with `.atm` where that is set.
std::string name_of(const SaeConfig& sae);

// The part of each SAE's name after the dataset: name_of, and for SAEs that agree in it the keys by which
// they differ, as `batch_topk.w16384.k64.aux_k0` and `batch_topk.w16384.k64.aux_k512`. Fit for folders, and
// all different if load_config made `saes`.
std::vector<std::string> names_of(const std::vector<SaeConfig>& saes);

}  // namespace strata
