#pragma once
// The configuration of a run as plain structs; one field per key of the YAML file, defaults as documented in
// docs/configuration.md. What is a key here but offers one value only (`prefixes: null`) is so because this
// version implements one; any other value is refused by load_config.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace strata {

struct RunConfig {
    std::string output;  // required
    std::uint64_t seed = 0;
    std::string device = "auto";  // auto | cpu
    bool reproducible = false;
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
    std::string kind = "adam";
    std::optional<double> lr;  // nullopt: auto
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    std::int64_t warmup_steps = 1000;
    double decay_fraction = 0.2;
    double clip_norm = 1.0;  // 0: off
    bool operator==(const OptimizerConfig&) const = default;
};

struct SaeConfig {
    std::string kind = "batch_topk";  // one of config::known_kinds()
    std::int64_t width = 16384;       // M, latents
    double k = 64;                    // mean active latents per row
    std::string b_dec_init = "mean";  // mean | zero
    std::int64_t aux_k = 512;         // 0: off; load_config lowers the default to the width
    double aux_coefficient = 0.03125;
    std::int64_t dead_after_tokens = 10'000'000;
    // batch_topk: at most row_cap * k codes of a row take part in the selection; 0: no cap
    std::int64_t row_cap = 0;
    bool operator==(const SaeConfig&) const = default;
};

struct ParallelConfig {
    std::optional<std::int64_t> data;     // replicas, which is all ranks in this version; nullopt: auto
    std::optional<std::int64_t> threads;  // per rank; nullopt: auto
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
// (`saes` as a suite when there are several), preceded by a comment with the version.
std::string to_yaml(const Config& config);

// One line that is equal for two configurations exactly if a checkpoint of one may be continued under the
// other: everything that decides the result, so not run.output, train.log_every, train.checkpoint_every,
// train.keep_checkpoints, run.device, parallel.*.
std::string fingerprint(const Config& config);

// The part of an SAE's name after the dataset: `batch_topk.w16384.k64`; k printed shortest ("64", "12.5").
std::string name_of(const SaeConfig& sae);

}  // namespace strata
