// What is accepted, and what it becomes.

#include "config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "base/file.h"
#include "config/files.h"
#include "config/keys.h"
#include "config/nearest.h"

namespace strata {
namespace {

using test::complaint;
using test::least;
using test::load;
using testing::HasSubstr;

// The example that users start from, in full.
const std::string sample = R"(
run:
  output: runs/demo            # required; a folder, made if missing
  seed: 0
  device: auto                 # auto | cpu | cuda
  encoder: auto                # auto | float32 | screened; what is found is the same
  screen_bound: dithered       # dithered | certain
  reproducible: false          # true: the same bits at any rank and thread count
  time_limit: auto             # until the end of the Slurm job; seconds, HH:MM:SS; null: none
  tensorboard: false           # true: event files beside metrics.jsonl
data:
  files: [activations/*.h5]    # required; globs; files in sorted order make one long dataset per name
  datasets: [resid_post/12]    # required; names inside the files, globs allowed; each match is one stream
  target: null                 # a second dataset to reconstruct instead of the input (transcoders)
  scale: mean_square           # mean_square: E|x|^2 = 1; sqrt_dim: E|x|^2 = n; none; a number
  max_norm_ratio: 10           # rows whose norm exceeds this times the median norm are skipped and counted
  eval_rows: 16384             # the last rows of the dataset, never trained on
  shuffle_rows: 262144         # rows held in the shuffle buffer, all ranks together
  lanes: 64                    # fixed partition of the stream; ranks serve whole lanes
  stage: null                  # a folder of each host, to which the files are copied before
  skip_corrupt: false          # leave out rows that cannot be read or are not finite
train:
  batch_size: 4096             # rows of the global batch, all ranks together
  tokens: 10000000             # rows to train on
  log_every: 50                # steps
  checkpoint_every: 1000       # steps; also on request and at the end
  keep_checkpoints: 2
optimizer:
  kind: adam                   # adam | adam_schedule_free | signum
  lr: auto                     # from batch, width, kind and run length; or a number
  beta1: 0.9
  beta2: 0.999
  epsilon: 1.0e-8
  warmup: linear               # linear | cosine
  warmup_steps: 1000
  decay_fraction: 0.2          # linear to zero over the last part of the run
  clip_norm: 1.0               # global norm, after the decoder projection; 0: off
sae:                           # the one SAE, or what the items of suite share
  kind: batch_topk             # relu | topk | batch_topk | jumprelu | gated | matryoshka
  width: 16384                 # latents
  k: 64                        # mean active latents per row; may be fractional for batch_topk
  l1: 0
  l0: 0
  l0_target: null
  frequency: 0
  frequency_limit: 0.1
  bandwidth: auto
  theta_init: auto
  theta: direct
  threshold_fall: 1
  penalty_warmup_steps: 10000
  decoder: unit
  resample_every: 0
  resample_warmup_steps: 1000
  prefixes: null
  skip: false
  init_from: null
  b_dec_init: mean
  encoder_init: fit
  encoder_norm: auto
  aux_k: auto
  aux_coefficient: 0.03125
  dead_after_tokens: auto
  row_cap: 0
  threshold_scope: global
  atm: null
)";
const std::string sample_suite = R"(suite:
  - {kind: batch_topk, width: [4096, 16384], k: [20, 40, 80]}
)";
const std::string sample_end =
    "parallel: {groups: auto, data: auto, latent: 1, shard_optimizer: false, threads: auto}\n";

std::vector<std::string> names(const Config& config) {
    return names_of(config.saes);
}

Config defaults() {
    Config config;
    config.run.output = "runs/demo";
    config.data.files = {"activations/*.h5"};
    config.data.datasets = {"resid_post/12"};
    config.saes.resize(1);
    return config;
}

TEST(Load, TheSampleSaysTheDefaults) {
    EXPECT_EQ(load(sample + sample_end), defaults());
}

TEST(Load, TheLeastGivesTheDefaults) {
    EXPECT_EQ(load("run: {output: runs/demo}\ndata: {files: activations/*.h5, datasets: [resid_post/12]}\n"
                   "optimizer:\nsuite:\n"),
              defaults());
}

TEST(Load, TheSuiteOfTheSample) {
    EXPECT_THAT(
        names(load(sample + sample_suite + sample_end)),
        testing::ElementsAre("batch_topk.w4096.k20", "batch_topk.w4096.k40", "batch_topk.w4096.k80",
                             "batch_topk.w16384.k20", "batch_topk.w16384.k40", "batch_topk.w16384.k80"));
    EXPECT_THAT(
        complaint(sample + sample_suite + "  - {kind: jumprelu, l0_target: [20, 40, 80]}\n" + sample_end),
        HasSubstr("run.yaml:41: sae.k: 64 has no meaning for kind jumprelu; expected no k, or kind topk, "
                  "batch_topk or matryoshka"));
}

TEST(Load, KeysOfAllKinds) {
    const SaeConfig jumprelu =
        load(
            least +
            "sae: {kind: jumprelu, l0: 6e-4, l0_target: 40, frequency: 0.5, frequency_limit: 0.2, bandwidth: "
            "0.01, theta_init: 0.02, theta: log, threshold_fall: 0.5, penalty_warmup_steps: 7, prefixes: "
            "[0.25, "
            "1], "
            "init_from: runs/a b}\n")
            .saes.front();
    EXPECT_EQ(jumprelu.l0, 6e-4);
    EXPECT_EQ(jumprelu.l0_target, 40);
    EXPECT_EQ(jumprelu.frequency, 0.5);
    EXPECT_EQ(jumprelu.frequency_limit, 0.2);
    EXPECT_EQ(jumprelu.bandwidth, 0.01);
    EXPECT_EQ(jumprelu.theta_init, 0.02);
    EXPECT_EQ(jumprelu.theta, "log");
    EXPECT_EQ(jumprelu.threshold_fall, 0.5);
    EXPECT_EQ(jumprelu.penalty_warmup_steps, 7);
    EXPECT_THAT(jumprelu.prefixes, testing::ElementsAre(0.25, 1));
    EXPECT_EQ(jumprelu.init_from, "runs/a b");
    const SaeConfig relu =
        load(least +
             "sae: {kind: relu, l1: 0.01, decoder: free, encoder_norm: 0.5, resample_every: 9, "
             "resample_warmup_steps: 8}\n")
            .saes.front();
    EXPECT_EQ(relu.l1, 0.01);
    EXPECT_EQ(relu.decoder, "free");
    EXPECT_EQ(relu.encoder_norm, 0.5);
    EXPECT_EQ(relu.resample_every, 9);
    EXPECT_EQ(relu.resample_warmup_steps, 8);
    const SaeConfig matryoshka =
        load(least + "sae: {kind: matryoshka, prefixes: [1, 2, 100], row_cap: 4, threshold_scope: local}\n")
            .saes.front();
    EXPECT_THAT(matryoshka.prefixes, testing::ElementsAre(1, 2, 100));
    EXPECT_EQ(matryoshka.row_cap, 4);
    EXPECT_EQ(matryoshka.threshold_scope, "local");
    const OptimizerConfig optimizer = load(least + "optimizer: {kind: signum, warmup: cosine}\n").optimizer;
    EXPECT_EQ(optimizer.kind, "signum");
    EXPECT_EQ(optimizer.warmup, "cosine");
    const SaeConfig none =
        load(least + "sae: {l0_target: ~, prefixes: , init_from: null, atm: null}\n").saes[0];
    EXPECT_EQ(none, SaeConfig());
}

TEST(Load, KindsWithoutKTakeNoAuxiliaryCodes) {
    for (const std::string kind : {"topk", "batch_topk", "matryoshka"})
        EXPECT_EQ(load(least, {"sae.kind=" + kind}).saes.front().aux_k, std::nullopt) << kind;
    for (const std::string kind : {"relu", "jumprelu", "gated"}) {
        EXPECT_EQ(load(least, {"sae.kind=" + kind}).saes.front().aux_k, std::nullopt) << kind;
        EXPECT_EQ(load(least, {"sae.kind=" + kind, "sae.aux_k=0"}).saes.front().aux_k, 0) << kind;
        EXPECT_THROW(load(least, {"sae.kind=" + kind, "sae.aux_k=512"}), UsageError) << kind;
    }
}

TEST(Load, TranscodersAreNotResampled) {
    const std::string resampled = "sae: {kind: relu, resample_every: 10}\n";
    EXPECT_EQ(load(least + resampled).saes.front().resample_every, 10);
    EXPECT_THROW(load(least + resampled, {"data.target=mlp_out/*"}), UsageError);
}

TEST(Load, AtmIsAMap) {
    EXPECT_FALSE(load(least).saes.front().atm);
    EXPECT_EQ(load(least + "sae: {atm: {}}\n").saes.front().atm, AtmConfig());
    const Config config = load(least +
                               "sae:\n  atm: {decay: 0.9, c: -0.5, r: 2, start_step: 3, ramp_steps: 0, law: "
                               "token, place: after, combine: geometric, weights: [1, 0, 0.5]}\n");
    const AtmConfig expected = {.decay = 0.9,
                                .c = -0.5,
                                .r = 2,
                                .start_step = 3,
                                .ramp_steps = 0,
                                .law = "token",
                                .place = "after",
                                .combine = "geometric",
                                .weights = {1, 0, 0.5}};
    EXPECT_EQ(config.saes.front().atm, expected);
}

TEST(Load, OptionsReplaceAtmOrAKeyOfIt) {
    const auto atm = [](const std::string& text, const std::vector<std::string>& options) {
        return load(least + text, options).saes.front().atm;
    };
    const std::string map = "sae: {atm: {c: wrong, r: 2}}\n";
    EXPECT_EQ(atm("", {"sae.atm={c: 3}"}), AtmConfig{.c = 3});
    EXPECT_EQ(atm("", {"sae.atm.c=3", "sae.atm.r=4"}), (AtmConfig{.c = 3, .r = 4}));
    EXPECT_EQ(atm(map, {"sae.atm.c=3"}), (AtmConfig{.c = 3, .r = 2}));
    EXPECT_EQ(atm(map, {"sae.atm={c: 3}"}), AtmConfig{.c = 3});
    EXPECT_EQ(atm(map, {"sae={atm: {c: 3}}"}), AtmConfig{.c = 3});
    EXPECT_EQ(atm(map, {"sae.atm={}"}), AtmConfig());
    EXPECT_EQ(atm(map, {"sae.atm=null"}), std::nullopt);
    EXPECT_EQ(atm(map, {"sae.atm=null", "sae.atm.c=3"}), AtmConfig{.c = 3});
    EXPECT_EQ(atm(map, {"sae.atm.c=3", "sae.atm=null"}), std::nullopt);
    EXPECT_EQ(atm("sae: {atm: null}\n", {"sae.atm.c=3"}), AtmConfig{.c = 3});
}

TEST(Load, ASuiteExpandsWithinAtm) {
    const Config config = load(least +
                               "sae: {width: 64, k: 8, atm: {decay: 0.9}}\n"
                               "suite:\n"
                               "  - atm: [null, {c: [0, 1], r: 2}, {}]\n"
                               "    row_cap: [0, 4]\n");
    EXPECT_THAT(names(config),
                testing::ElementsAre(
                    "batch_topk.w64.k8.row_cap0", "batch_topk.w64.k8.row_cap4",
                    "batch_topk.w64.k8.atm.c0.r2.row_cap0", "batch_topk.w64.k8.atm.c0.r2.row_cap4",
                    "batch_topk.w64.k8.atm.c1.r2.row_cap0", "batch_topk.w64.k8.atm.c1.r2.row_cap4",
                    "batch_topk.w64.k8.atm.c1.r0.5.row_cap0", "batch_topk.w64.k8.atm.c1.r0.5.row_cap4"));
    EXPECT_FALSE(config.saes[0].atm);
    EXPECT_EQ(config.saes[2].atm, (AtmConfig{.decay = 0.9, .c = 0, .r = 2}));
    EXPECT_EQ(config.saes[7].atm, AtmConfig{.decay = 0.9});
}

// A list of numbers is one value of `prefixes`; several are lists in a list.
TEST(Load, ASuiteTakesListsOfLists) {
    const auto prefixes = [](const std::string& text) {
        std::vector<std::vector<double>> all;
        for (const SaeConfig& sae : load(least + "suite: [{" + text + "}]\n").saes)
            all.push_back(sae.prefixes);
        return all;
    };
    using List = std::vector<double>;
    EXPECT_THAT(prefixes("prefixes: [0.5, 1]"), testing::ElementsAre(List{0.5, 1}));
    EXPECT_THAT(prefixes("prefixes: [[0.5, 1], null, [8]]"),
                testing::ElementsAre(List{0.5, 1}, List{}, List{8}));
    EXPECT_EQ(load(least + "suite: [{atm: {weights: [1, 2, 3]}}]\n").saes.front().atm->weights,
              (List{1, 2, 3}));
    EXPECT_EQ(load(least + "suite: [{atm: {weights: [[1, 2, 3], [1, 0, 0]]}}]\n").saes.back().atm->weights,
              (List{1, 0, 0}));
}

TEST(Load, Numbers) {
    const Config config = load(least +
                                   "train: {tokens: 1e6, batch_size: +128, log_every: 2.0}\n"
                                   "sae: {k: 12.5, l1: 0.0, skip: no, aux_k: \"7\", prefixes: .5}\n"
                                   "optimizer: {lr: 3E-4, decay_fraction: 0, beta1: .0}\n"
                                   "parallel: {groups: 1, data: 2, threads: 3}\n",
                               {"run.seed=18446744073709551615", "data.scale=2.50"});
    EXPECT_EQ(config.train.tokens, 1000000);
    EXPECT_EQ(config.train.batch_size, 128);
    EXPECT_EQ(config.train.log_every, 2);
    EXPECT_EQ(config.saes.front().k, 12.5);
    EXPECT_EQ(config.saes.front().aux_k, 7);
    EXPECT_FALSE(config.saes.front().skip);
    EXPECT_THAT(config.saes.front().prefixes, testing::ElementsAre(0.5));
    EXPECT_EQ(config.optimizer.lr, 3e-4);
    EXPECT_EQ(config.optimizer.decay_fraction, 0);
    EXPECT_EQ(config.parallel.data, 2);
    EXPECT_EQ(config.parallel.threads, 3);
    EXPECT_EQ(config.run.seed, 18446744073709551615U);
    EXPECT_EQ(config.data.scale, "2.5");
    EXPECT_EQ(complaint(least, {"run.seed=18446744073709551616"}),
              "--set run.seed: 18446744073709551616 is out of range; expected a whole number >= 0");
}

TEST(Load, OptionsReplaceWhatTheFileSays) {
    const std::string text = least + "train: {tokens: wrong, batch_size: 4}\nsuite:\n  - {k: wrong}\n";
    const Config config = load(text, {"train.tokens=5", "train={batch_size: 256}", "data.files=[a.h5,b*.h5]",
                                      "suite=[{k: [3, 4]}]", "data.datasets=c", "train.tokens=1e3"});
    EXPECT_EQ(config.train.tokens, 1000);
    EXPECT_EQ(config.train.batch_size, 256);
    EXPECT_THAT(config.data.files, testing::ElementsAre("a.h5", "b*.h5"));
    EXPECT_THAT(config.data.datasets, testing::ElementsAre("c"));
    EXPECT_THAT(names(config), testing::ElementsAre("batch_topk.w16384.k3", "batch_topk.w16384.k4"));
    EXPECT_EQ(load(least + "suite:\n  - {k: 3}\n", {"suite=null", "sae.k=5"}).saes.front().k, 5);
}

TEST(Load, AnOptionLeavesAliasesAlone) {
    const Config config =
        load(least + "train: {tokens: &n 500, log_every: *n}\nsuite:\n  - {k: &k [3, 4], aux_k: *k}\n",
             {"train.tokens=7", "suite=[{k: 5}]"});
    EXPECT_EQ(config.train.tokens, 7);
    EXPECT_EQ(config.train.log_every, 500);
}

TEST(Load, TheTargetIsADatasetOrNull) {
    EXPECT_EQ(load(least).data.target, "");
    for (const std::string nothing : {"null", "~", ""})
        EXPECT_EQ(load(least, {"data.target=" + nothing}).data.target, "") << nothing;
    for (const std::string name : {"mlp_out/12", "mlp_out/*", "*"})
        EXPECT_EQ(load(least, {"data.target='" + name + "'"}).data.target, name);
    EXPECT_EQ(load(least, {"data.target=mlp_out/*", "data.target=null"}).data.target, "");
    EXPECT_EQ(load(least, {"data.target='null'"}).data.target, "null");
}

TEST(Load, SuiteOnTopOfSae) {
    const Config config = load(least +
                               "sae: {width: 256, k: 8, b_dec_init: zero}\n"
                               "suite:\n"
                               "  - k: [2, 12.5]\n"
                               "    kind: batch_topk\n"
                               "    width: [64, 1024]\n"
                               "  - {kind: topk, aux_k: 3}\n");
    EXPECT_THAT(names(config),
                testing::ElementsAre("batch_topk.w64.k2", "batch_topk.w1024.k2", "batch_topk.w64.k12.5",
                                     "batch_topk.w1024.k12.5", "topk.w256.k8"));
    for (const SaeConfig& sae : config.saes) EXPECT_EQ(sae.b_dec_init, "zero");
    EXPECT_EQ(config.saes[1].aux_k, std::nullopt);
    EXPECT_EQ(config.saes[4].aux_k, 3);
}

TEST(Load, AFailedBaseHidesNoErrorOfTheSuite) {
    EXPECT_EQ(
        complaint(least + "sae: {width: x}\nsuite:\n  - {k: y}\n"),
        "run.yaml:4: sae.width: 'x' is not a whole number; expected a whole number >= 1 and <= 2147483647\n"
        "run.yaml:6: suite.k: 'y' is not a number; expected a number > 0");
}

TEST(ToYaml, ReadsBackEqual) {
    const std::vector<std::string> extra = {
        "",
        "sae: {width: 100}\n",
        "suite:\n  - {kind: [topk, batch_topk], width: [96, 4096], k: [4, 8]}\n  - {k: 0.1, aux_k: 0, "
        "row_cap: 3}\n",
        "parallel: {data: 3, threads: 2}\noptimizer: {lr: 0.1, epsilon: 1e-300, beta2: 0.3333333333333333}\n",
        "train: {tokens: 9007199254740992}\n",
        "sae: {kind: jumprelu, l0: 1e-5, l0_target: 0.3, frequency: 3, theta: log, prefixes: [0.1, 1]}\n",
        "sae: {kind: relu, l1: 0.3, decoder: free, resample_every: 3, init_from: \"null\"}\n",
        "sae: {kind: gated, atm: {}}\noptimizer: {kind: adam_schedule_free, warmup: cosine}\n",
        "sae: {kind: matryoshka, prefixes: [1, 20, 300], threshold_scope: local}\n",
        "suite:\n  - {kind: batch_topk, k: 8, atm: [null, {c: [0, 0.3], weights: [0, 0, 1]}]}\n"
        "  - {kind: jumprelu, l0: [0, 1e-3], prefixes: [null, [8, 100]], atm: {law: [token, latent]}}\n"
        "  - {kind: gated, l1: 0.1, init_from: [runs/a, runs/b]}\n",
    };
    for (const std::string& text : extra) {
        const Config config = load(least + text, {"data.scale=0.1", "run.seed=18446744073709551615"});
        const std::string yaml = to_yaml(config);
        EXPECT_EQ(load(yaml), config) << yaml;
        EXPECT_EQ(to_yaml(load(yaml)), yaml);
        EXPECT_TRUE(yaml.starts_with("# strata " STRATA_VERSION "\nrun:\n"));
        for (const config::Key& key : config::keys()) {
            bool known = false;  // keys that say nothing about any SAE are left out
            for (const SaeConfig& sae : config.saes)
                known |= key.concerns(sae) && (!config::is_inside(key.section) || sae.atm);
            const bool found = yaml.find(" " + key.name + ": ") != std::string::npos ||
                               yaml.find("{" + key.name + ": ") != std::string::npos;
            EXPECT_EQ(found, known) << key.name << "\n" << yaml;
        }
    }
}

TEST(ToYaml, KeepsAwkwardText) {
    Config config = defaults();
    for (const std::string text :
         {"null",  "~",      "true",       "5",     "1e5",      "a b", "a: b", "a #b",  "- x",
          "[a]",   "{a: b}", "a,b",        "*.h5",  "@x",       "%x",  "'q'",  "\"q\"", "back\\slash",
          " lead", "trail ", "two\nlines", "tab\t", "\xc3\xa9", "&a",  "!t",   "|",     "="}) {
        config.run.output = text;
        config.data.files = {text, "x"};
        config.data.datasets = {"x", text};
        config.data.target = text.find_first_of("*?[") == std::string::npos ? text : "";
        EXPECT_EQ(load(to_yaml(config)), config) << to_yaml(config);
    }
}

TEST(Fingerprint, HoldsWhatDecidesTheResult) {
    const std::string of_least = fingerprint(load(least));
    EXPECT_THAT(of_least, testing::Not(HasSubstr("\n")));
    for (const std::string option : {"run.output=y",
                                     "run.device=cpu",
                                     "run.device=cuda",
                                     "run.time_limit=9",
                                     "run.watchdog=9",
                                     "run.tensorboard=true",
                                     "data.stage=y",
                                     "data.skip_corrupt=true",
                                     "train.log_every=7",
                                     "train.checkpoint_every=7",
                                     "train.keep_checkpoints=7",
                                     "parallel.data=7",
                                     "parallel.threads=7",
                                     "parallel.groups=1",
                                     "parallel.saes_per_job=1",
                                     "data.lanes=64",
                                     "sae.k=64.0",
                                     "suite=[{k: 64}]",
                                     "sae.l0=0.0",
                                     "sae.atm=null"})
        EXPECT_EQ(fingerprint(load(least, {option})), of_least) << option;
    std::set<std::string> all = {of_least};
    const std::vector<std::string> deciding = {"run.seed=1",
                                               "data.files=[b]",
                                               "data.datasets=[a]",
                                               "data.target=a",
                                               "data.target=\"null\"",
                                               "data.scale=none",
                                               "data.max_norm_ratio=9",
                                               "data.eval_rows=9",
                                               "data.shuffle_rows=900",
                                               "data.lanes=9",
                                               "train.batch_size=99",
                                               "train.tokens=9",
                                               "optimizer.lr=9",
                                               "optimizer.beta1=0.5",
                                               "optimizer.beta2=0.5",
                                               "optimizer.epsilon=9",
                                               "optimizer.kind=signum",
                                               "optimizer.warmup=cosine",
                                               "optimizer.warmup_steps=9",
                                               "optimizer.decay_fraction=0.9",
                                               "optimizer.clip_norm=9",
                                               "sae.kind=topk",
                                               "sae.width=999",
                                               "sae.k=9",
                                               "sae.b_dec_init=zero",
                                               "sae.aux_k=9",
                                               "sae.aux_coefficient=9",
                                               "sae.dead_after_tokens=9",
                                               "sae.row_cap=9",
                                               "sae.threshold_scope=local",
                                               "sae.prefixes=[0.5]",
                                               "sae.init_from=runs/x",
                                               "sae.atm={}",
                                               "sae.atm.decay=0.5",
                                               "sae.atm.c=9",
                                               "sae.atm.r=9",
                                               "sae.atm.start_step=9",
                                               "sae.atm.ramp_steps=9",
                                               "sae.atm.law=token",
                                               "sae.atm.place=after",
                                               "sae.atm.combine=geometric",
                                               "sae.atm.weights=[1, 1, 2]",
                                               "sae={kind: matryoshka}",
                                               "sae={kind: relu}",
                                               "sae={kind: relu, l1: 9}",
                                               "sae={kind: relu, decoder: free}",
                                               "sae={kind: relu, penalty_warmup_steps: 9}",
                                               "sae={kind: relu, resample_every: 9}",
                                               "sae={kind: relu, resample_warmup_steps: 9}",
                                               "sae={kind: gated}",
                                               "sae={kind: gated, threshold_fall: 0}",
                                               "sae={kind: jumprelu}",
                                               "sae={kind: jumprelu, l0: 9}",
                                               "sae={kind: jumprelu, l0_target: 9}",
                                               "sae={kind: jumprelu, frequency: 9}",
                                               "sae={kind: jumprelu, frequency_limit: 0.5}",
                                               "sae={kind: jumprelu, bandwidth: 9}",
                                               "sae={kind: jumprelu, theta_init: 9}",
                                               "sae.encoder_norm=1",
                                               "sae={kind: jumprelu, theta: log}",
                                               "sae={kind: jumprelu, threshold_fall: 0}",
                                               "suite=[{k: [64, 9]}]",
                                               "suite=[{k: [9, 64]}]",
                                               "data.files=[\"a.h5, b\"]",
                                               "data.files=[a.h5, b]"};
    for (const std::string& option : deciding) all.insert(fingerprint(load(least, {option})));
    EXPECT_EQ(all.size(), deciding.size() + 1);
}

TEST(Fingerprint, IsComparedKeyByKey) {
    EXPECT_EQ(
        differences(R"({"a": "1", "b": ["2"], "d": "5"})", R"({"b": ["3"], "c": "4", "d": "5"})"),
        "\n  b: [\"2\"] then, [\"3\"] now\n  c: not there then, \"4\" now\n  a: \"1\" then, not there now");
    EXPECT_EQ(differences("damaged", R"({"b": "3"})"), "\n  b: not there then, \"3\" now");
}

TEST(NameOf, IsShort) {
    SaeConfig sae;
    EXPECT_EQ(name_of(sae), "batch_topk.w16384.k64");
    sae.k = 12.5;
    EXPECT_EQ(name_of(sae), "batch_topk.w16384.k12.5");
    sae.kind = "topk";
    sae.width = 1 << 20;
    sae.k = 100;
    EXPECT_EQ(name_of(sae), "topk.w1048576.k100");
    EXPECT_EQ(name_of({.kind = "relu", .width = 4096, .l1 = 0.01}), "relu.w4096.l1_0.01");
    EXPECT_EQ(name_of({.kind = "gated", .width = 4096, .l1 = 3}), "gated.w4096.l1_3");
    EXPECT_EQ(name_of({.kind = "jumprelu", .l0 = 6e-4}), "jumprelu.w16384.l0_0.0006");
    EXPECT_EQ(name_of({.kind = "jumprelu", .l0 = 6e-4, .l0_target = 40}), "jumprelu.w16384.l0t40");
    EXPECT_EQ(name_of({.kind = "matryoshka", .atm = AtmConfig()}), "matryoshka.w16384.k64.atm");
}

TEST(NamesOf, TellNamesakesApart) {
    const auto named = [](const std::string& items) {
        return names(load(least + "suite: [" + items + "]\n"));
    };
    using testing::ElementsAre;
    EXPECT_THAT(named("{k: [8, 9], aux_k: 0}"), ElementsAre("batch_topk.w16384.k8", "batch_topk.w16384.k9"));
    EXPECT_THAT(
        named("{k: 8, aux_k: [0, 64]}, {k: 9}"),
        ElementsAre("batch_topk.w16384.k8.aux_k0", "batch_topk.w16384.k8.aux_k64", "batch_topk.w16384.k9"));
    EXPECT_THAT(named("{kind: relu, l1: 1, decoder: [unit, free], init_from: [null, runs/a b]}"),
                ElementsAre("relu.w16384.l1_1.decoder_unit.init_from_null",
                            "relu.w16384.l1_1.decoder_unit.init_from_runs_a_b",
                            "relu.w16384.l1_1.decoder_free.init_from_null",
                            "relu.w16384.l1_1.decoder_free.init_from_runs_a_b"));
    EXPECT_THAT(
        named("{kind: jumprelu, l0_target: 40, l0: [0, 0.5], prefixes: [null, [0.25, 1]]}"),
        ElementsAre("jumprelu.w16384.l0t40.l0_0.prefixes_null", "jumprelu.w16384.l0t40.l0_0.prefixes0.25_1",
                    "jumprelu.w16384.l0t40.l0_0.5.prefixes_null",
                    "jumprelu.w16384.l0t40.l0_0.5.prefixes0.25_1"));
    EXPECT_THAT(
        named("{atm: {c: [-0.5, 1], law: [token, latent]}}"),
        ElementsAre("batch_topk.w16384.k64.atm.c-0.5.law_token", "batch_topk.w16384.k64.atm.c-0.5.law_latent",
                    "batch_topk.w16384.k64.atm.c1.law_token", "batch_topk.w16384.k64.atm.c1.law_latent"));
}

TEST(PrefixWidths, EndWithTheWidth) {
    using testing::ElementsAre;
    const auto widths = [](const std::string& kind, std::int64_t width, std::vector<double> prefixes) {
        return prefix_widths({.kind = kind, .width = width, .prefixes = std::move(prefixes)});
    };
    EXPECT_THAT(widths("batch_topk", 64, {}), ElementsAre(64));
    EXPECT_THAT(widths("matryoshka", 65536, {}), ElementsAre(2048, 6144, 14336, 30720, 65536));
    EXPECT_THAT(widths("matryoshka", 8, {}), ElementsAre(1, 2, 4, 8));  // 0.25, 0.75, 1.75, 3.75
    EXPECT_THAT(widths("relu", 100, {0.25, 1}), ElementsAre(25, 100));
    EXPECT_THAT(widths("relu", 100, {0.001, 0.125}), ElementsAre(1, 13, 100));
    EXPECT_THAT(widths("relu", 100, {1}), ElementsAre(100));
    EXPECT_THAT(widths("relu", 100, {1, 2, 30}), ElementsAre(1, 2, 30, 100));
    EXPECT_THAT(widths("relu", 100, {30, 100}), ElementsAre(30, 100));
    EXPECT_THAT(widths("relu", 2147483647, {0.5}), ElementsAre(1073741824, 2147483647));
}

TEST(Examples, AreAccepted) {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(STRATA_SOURCE "/configs")) {
        const Config config = load_config(entry.path(), {});
        EXPECT_EQ(load(to_yaml(config)), config) << entry.path();
        ++count;
    }
    EXPECT_GE(count, 6U);
}

TEST(TimeLimit, IsReadAsSlurmWritesIt) {
    using testing::Optional;
    EXPECT_THAT(seconds_in("0"), Optional(0));
    EXPECT_THAT(seconds_in("86400"), Optional(86400));
    EXPECT_THAT(seconds_in("90:30"), Optional(5430));
    EXPECT_THAT(seconds_in("01:00:08"), Optional(3608));
    EXPECT_THAT(seconds_in("2-01:00:08"), Optional(176408));
    for (const std::string text : {"", "x", "-5", "1.5", "1:", ":1", "1:60", "100:60:00", "1:2:3:4", "1-5",
                                   "1-00:05", "1-24:00:00", "5 s", "9999999999999", "99999999999999999999"})
        EXPECT_EQ(seconds_in(text), std::nullopt) << text;

    EXPECT_EQ(load(least, {"run.time_limit=12:00:00"}).run.time_limit, "12:00:00");
    EXPECT_EQ(load(least, {"run.time_limit=null"}).run.time_limit, "");
    EXPECT_EQ(complaint(least, {"run.time_limit=12h"}),
              "--set run.time_limit: '12h' is not a time; expected auto, null or a time: seconds, MM:SS, "
              "HH:MM:SS or "
              "D-HH:MM:SS");
}

TEST(TimeLimit, IsThatOfTheJobUnlessGiven) {
    const auto start = std::chrono::system_clock::from_time_t(1'000'000);
    const auto after = [&](int seconds) { return std::optional(start + std::chrono::seconds(seconds)); };
    unsetenv("SLURM_JOB_END_TIME");
    EXPECT_EQ(end_of_run("auto", start), std::nullopt);
    EXPECT_EQ(end_of_run("1:10", start), after(70));
    setenv("SLURM_JOB_END_TIME", "1003600", 1);
    EXPECT_EQ(end_of_run("auto", start), after(3600));
    EXPECT_EQ(end_of_run("70", start), after(70));
    EXPECT_EQ(end_of_run("", start), std::nullopt);
    EXPECT_EQ(end_of_run("0", start), std::nullopt);
    for (const char* none : {"", "0", "Unknown"}) {
        setenv("SLURM_JOB_END_TIME", none, 1);
        EXPECT_EQ(end_of_run("auto", start), std::nullopt) << none;
    }
    unsetenv("SLURM_JOB_END_TIME");
}

TEST(Nearest, CountsSlipsOfTheFinger) {
    EXPECT_EQ(config::edit_distance("tokens", "tokens"), 0);
    EXPECT_EQ(config::edit_distance("tokns", "tokens"), 1);
    EXPECT_EQ(config::edit_distance("tokesn", "tokens"), 1);
    EXPECT_EQ(config::edit_distance("", "abc"), 3);
    EXPECT_EQ(config::edit_distance("Log-Every", "log_every"), 0);
    EXPECT_EQ(config::edit_distance("kitten", "sitting"), 3);
    const std::vector<std::string_view> words = {"k", "width", "aux_k"};
    EXPECT_EQ(config::nearest("with", words), "width");
    EXPECT_EQ(config::nearest("auxk", words), "aux_k");
    EXPECT_EQ(config::nearest("x", words), "");
    EXPECT_EQ(config::nearest("", words), "");
}

// The page names every key with its default and what it accepts, in the order of the table, and no other key.
TEST(Documentation, IsTrue) {
    const std::string page = read_file(STRATA_SOURCE "/docs/configuration.md");
    const Config config;
    std::size_t at = 0;
    std::string section;
    for (const config::Key& key : config::keys()) {
        if (key.section != section) {
            section = key.section;
            at = page.find("\n## " + section + "\n", at);
            ASSERT_NE(at, std::string::npos) << section;
        }
        const std::string value = key.required ? "*required*" : "`" + key.get(config, SaeConfig()) + "`";
        const std::string row = "\n| `" + key.name + "` | " + value + " | " + key.expected + " | ";
        const std::size_t found = page.find(row, at);
        ASSERT_NE(found, std::string::npos) << section << row;
        at = found + 1;
    }
    std::size_t rows = 0;
    for (std::size_t i = 0; (i = page.find("\n| `", i)) != std::string::npos; ++i) ++rows;
    EXPECT_EQ(rows, config::keys().size());
}

}  // namespace
}  // namespace strata
