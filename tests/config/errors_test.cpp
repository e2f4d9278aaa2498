// What is refused, and in which words.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/files.h"

namespace strata {
namespace {

using test::complaint;
using test::least;
using testing::HasSubstr;

struct Bad {
    std::string text;  // after the three lines of `least`, so it begins on line 4
    std::string message;
};

class Refused : public testing::TestWithParam<Bad> {};

TEST_P(Refused, SaysWhereAndWhat) {
    EXPECT_EQ(complaint(least + GetParam().text), "run.yaml:" + GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    Spelling, Refused,
    testing::Values(
        Bad{"train:\n  batch_sise: 4\n", "5: train.batch_sise: unknown key; did you mean 'batch_size'?"},
        Bad{"train: {Batch-Size: 4}\n", "4: train.Batch-Size: unknown key; did you mean 'batch_size'?"},
        Bad{"sae:\n\n  lanes: 4\n", "6: sae.lanes: unknown key; it belongs to section data: data.lanes"},
        Bad{"sae: {tokns: 4}\n", "4: sae.tokns: unknown key; did you mean train.tokens?"},
        Bad{"optimiser: {}\n", "4: optimiser: unknown key; did you mean 'optimizer'?"},
        Bad{"suit: []\n", "4: suit: unknown key; did you mean 'suite'?"},
        Bad{"width: 4\n", "4: width: unknown key; it belongs to section sae: sae.width"},
        Bad{"sae.width: 4\n", "4: sae.width: unknown key; it belongs to section sae: sae.width"},
        Bad{"parallel: {frobnicate: 1}\n",
            "4: parallel.frobnicate: unknown key; expected one of groups, data, "
            "latent, shard_optimizer, saes_per_job, micro_batch, threads"},
        Bad{"sae: {\"\": 1}\n", "4: sae.: a key is not a name; expected `name: value`"},
        Bad{"sae: {[a]: 1}\n", "4: sae.[...]: a key is not a name; expected `name: value`"},
        Bad{"sae:\n  k: 4\n  k: 5\n", "6: sae.k: stands twice; expected each key once"},
        Bad{"train: {}\nrun: {output: y}\n", "5: run: stands twice; expected each key once"},
        Bad{"train: 5\n",
            "4: train: is not a section; expected keys under it (expected one of batch_size, tokens, "
            "log_every, checkpoint_every, keep_checkpoints)"}));

INSTANTIATE_TEST_SUITE_P(
    Values, Refused,
    testing::Values(
        Bad{"train:\n  tokens: forty\n",
            "5: train.tokens: 'forty' is not a whole number; expected a whole number >= 1"},
        Bad{"train: {tokens: 1.5}\n",
            "4: train.tokens: 1.5 is not a whole number; expected a whole number >= 1"},
        Bad{"train: {tokens: true}\n",
            "4: train.tokens: 'true' is not a whole number; expected a whole number >= 1"},
        Bad{"train: {tokens: 0}\n", "4: train.tokens: 0 is out of range; expected a whole number >= 1"},
        Bad{"train: {tokens: 1e30}\n", "4: train.tokens: 1e30 is out of range; expected a whole number >= 1"},
        Bad{"train: {tokens: 9223372036854775807}\n",
            "4: train.tokens: 9223372036854775807 is out of range; expected a whole number >= 1"},
        Bad{"train: {tokens: [1, 2]}\n", "4: train.tokens: is a list; expected a whole number >= 1"},
        Bad{"train: {tokens: {a: 1}}\n", "4: train.tokens: is a map; expected a whole number >= 1"},
        Bad{"train:\n  tokens:\n  log_every: 5\n",
            "5: train.tokens: has no value; expected a whole number >= 1"},
        Bad{"train: {checkpoint_every: 0}\n",
            "4: train.checkpoint_every: 0 is out of range; expected a whole number >= 1"},
        Bad{"train: {keep_checkpoints: 0}\n",
            "4: train.keep_checkpoints: 0 is out of range; expected a whole number >= 1"},
        Bad{"optimizer: {lr: 0}\n", "4: optimizer.lr: 0 is out of range; expected auto or a number > 0"},
        Bad{"optimizer: {lr: .nan}\n",
            "4: optimizer.lr: '.nan' is not a number; expected auto or a number > 0"},
        Bad{"optimizer: {lr: inf}\n",
            "4: optimizer.lr: 'inf' is not a number; expected auto or a number > 0"},
        Bad{"optimizer: {beta1: 1}\n",
            "4: optimizer.beta1: 1 is out of range; expected a number >= 0 and < 1"},
        Bad{"optimizer: {beta2: -0.1}\n",
            "4: optimizer.beta2: -0.1 is out of range; expected a number >= 0 and < 1"},
        Bad{"optimizer: {decay_fraction: 1.01}\n",
            "4: optimizer.decay_fraction: 1.01 is out of range; expected a number >= 0 and <= 1"},
        Bad{"optimizer: {warmup_steps: -1}\n",
            "4: optimizer.warmup_steps: -1 is out of range; expected a whole number >= 0"},
        Bad{"optimizer: {clip_norm: -1}\n",
            "4: optimizer.clip_norm: -1 is out of range; expected a number >= 0"},
        Bad{"optimizer: {kind: adamm}\n",
            "4: optimizer.kind: 'adamm' is not a value of this key; expected adam, adam_schedule_free or "
            "signum; did you mean 'adam'?"},
        Bad{"sae: {b_dec_init: [mean]}\n",
            "4: sae.b_dec_init: is a list; expected mean or zero; lists of values "
            "belong in the items of suite"},
        Bad{"sae: {k: 0}\n", "4: sae.k: 0 is out of range; expected a number > 0"},
        Bad{"sae: {width: 0}\n",
            "4: sae.width: 0 is out of range; expected a whole number >= 1 and <= 2147483647"},
        Bad{"sae: {row_cap: -1}\n", "4: sae.row_cap: -1 is out of range; expected a whole number >= 0"},
        Bad{"parallel: {threads: 0}\n",
            "4: parallel.threads: 0 is out of range; expected auto or a whole number >= 1 and <= 4096"},
        Bad{"parallel: {threads: all}\n",
            "4: parallel.threads: 'all' is not a whole number; expected auto or a whole number >= 1 and <= "
            "4096"}));

INSTANTIATE_TEST_SUITE_P(
    OfSae, Refused,
    testing::Values(
        Bad{"sae: {kind: jump_relu}\n",
            "4: sae.kind: 'jump_relu' is not a value of this key; expected relu, topk, batch_topk, "
            "jumprelu, gated or matryoshka; did you mean 'jumprelu'?"},
        Bad{"sae: {kind: relu, l1: -1}\n", "4: sae.l1: -1 is out of range; expected a number >= 0"},
        Bad{"sae: {kind: jumprelu, l0_target: 0}\n",
            "4: sae.l0_target: 0 is out of range; expected null or a number > 0"},
        Bad{"sae: {kind: jumprelu, l0_target: auto}\n",
            "4: sae.l0_target: 'auto' is not a number; expected null or a number > 0"},
        Bad{"sae: {kind: jumprelu, frequency_limit: 2}\n",
            "4: sae.frequency_limit: 2 is out of range; expected a number >= 0 and <= 1"},
        Bad{"sae: {skip: maybe}\n",
            "4: sae.skip: 'maybe' is not a value of this key; expected true or false"},
        Bad{"sae: {init_from: }\nsae2:\n", "5: sae2: unknown key; did you mean 'sae'?"},
        Bad{"sae: {init_from: [a]}\n",
            "4: sae.init_from: is a list; expected null or the folder of a saved SAE; lists of values "
            "belong in the items of suite"},
        Bad{"sae: {init_from: \"\"}\n",
            "4: sae.init_from: is empty; expected null or the folder of a saved SAE"},
        Bad{"sae: {prefixes: []}\n",
            "4: sae.prefixes: the list is empty; expected null or a list of fractions of the width or of "
            "widths"},
        Bad{"sae: {prefixes: [0, 1]}\n",
            "4: sae.prefixes: 0 is out of range; expected null or a list of fractions of the width or of "
            "widths"},
        Bad{"sae: {prefixes: [a]}\n",
            "4: sae.prefixes: 'a' is not a number; expected null or a list of fractions of the width or of "
            "widths"},
        Bad{"sae: {prefixes: [[1, 2], null]}\n",
            "4: sae.prefixes: an item is a list; expected null or a list of fractions of the width or of "
            "widths"},
        Bad{"sae: {prefixes: {a: 1}}\n",
            "4: sae.prefixes: is a map; expected null or a list of fractions of the width or of widths"}));

INSTANTIATE_TEST_SUITE_P(
    Atm, Refused,
    testing::Values(
        Bad{"sae:\n  atm:\n    decai: 0.9\n", "6: sae.atm.decai: unknown key; did you mean 'decay'?"},
        Bad{"sae:\n  atm:\n    c: 1\n    c: 2\n", "7: sae.atm.c: stands twice; expected each key once"},
        Bad{"sae: {decay: 0.9}\n", "4: sae.decay: unknown key; it belongs to section sae.atm: sae.atm.decay"},
        Bad{"sae: {atm.c: 1}\n", "4: sae.atm.c: unknown key; it belongs to section sae.atm: sae.atm.c"},
        Bad{"sae.atm: {c: 1}\n", "4: sae.atm: unknown key; it belongs to section sae: sae.atm"},
        Bad{"atm: {c: 1}\n", "4: atm: unknown key; it belongs to section sae: sae.atm"},
        Bad{"sae: {atm: {width: 4}}\n",
            "4: sae.atm.width: unknown key; it belongs to section sae: sae.width"},
        Bad{"sae: {atm: {zzzzzzzzzzzzzzzz: 4}}\n",
            "4: sae.atm.zzzzzzzzzzzzzzzz: unknown key; expected one of decay, c, r, start_step, ramp_steps, "
            "law, place, combine, weights"},
        Bad{"sae: {atm: on}\n",
            "4: sae.atm: 'on' is not a value of this key; expected null or a map of keys of sae.atm"},
        Bad{"sae: {atm: [null, {c: 1}]}\n",
            "4: sae.atm: is a list; expected null or a map of keys of sae.atm; lists of values belong in the "
            "items of suite"},
        Bad{"sae: {atm: {c: [0, 1]}}\n",
            "4: sae.atm.c: is a list; expected a number; lists of values belong in the items of suite"},
        Bad{"sae: {atm: {decay: 1}}\n", "4: sae.atm.decay: 1 is out of range; expected a number > 0 and < 1"},
        Bad{"sae: {atm: {r: 0}}\n", "4: sae.atm.r: 0 is out of range; expected a number > 0"},
        Bad{"sae: {atm: {ramp_steps: -1}}\n",
            "4: sae.atm.ramp_steps: -1 is out of range; expected a whole number >= 0"},
        Bad{"sae: {atm: {law: tokne}}\n",
            "4: sae.atm.law: 'tokne' is not a value of this key; expected latent or token; did you mean "
            "'token'?"},
        Bad{"sae: {atm: {weights: [1, -1, 1]}}\n",
            "4: sae.atm.weights: -1 is out of range; expected a list of three numbers >= 0"},
        Bad{"sae: {atm: {weights: null}}\n",
            "4: sae.atm.weights: has no value; expected a list of three numbers >= 0"},
        Bad{"sae: {atm: {weights: [1, 1]}}\n",
            "4: sae.atm.weights: [1, 1] does not weigh the three statistics; expected three numbers >= 0, "
            "one "
            "of them > 0"},
        Bad{"sae: {atm: {weights: [0, 0, 0]}}\n",
            "4: sae.atm.weights: [0, 0, 0] does not weigh the three statistics; expected three numbers >= 0, "
            "one of them > 0"},
        Bad{"suite:\n  - atm: [null, {c: 1}, {lwa: 3}]\n",
            "5: suite.atm.lwa: unknown key; did you mean 'law'?"},
        Bad{"suite:\n  - atm:\n    - null\n    - {r: [1, 0]}\n",
            "7: suite.atm.r: 0 is out of range; expected a number > 0"},
        Bad{"suite:\n  - {atm: {r: []}}\n",
            "5: suite.atm.r: the list is empty; expected a number > 0, or several"},
        Bad{"suite:\n  - {atm: [[{c: 1}]]}\n",
            "5: suite.atm: is a list; expected null or a map of keys of sae.atm"}));

INSTANTIATE_TEST_SUITE_P(
    OneValueOnly, Refused,
    testing::Values(Bad{"parallel: {latent: 2}\n",
                        "4: parallel.latent: '2' is not available in this version; expected 1 "
                        "(latents are not divided among ranks)"},
                    Bad{"parallel: {latent: }\n",
                        "4: parallel.latent: has no value; expected 1 (latents are not divided among "
                        "ranks)"}));

INSTANTIATE_TEST_SUITE_P(
    BetweenKeys, Refused,
    testing::Values(
        Bad{"sae:\n  width: 64\n  k: 65\n", "6: sae.k: k 65 exceeds width 64; expected k <= width"},
        Bad{"sae: {width: 32}\n", "4: sae.width: k 64 exceeds width 32; expected k <= width"},
        Bad{"sae: {kind: relu, aux_k: 3}\n",
            "4: sae.aux_k: 3 has no meaning for kind relu; expected 0, or a kind that selects the k largest"},
        Bad{"optimizer: {kind: signum, beta1: 0}\n",
            "4: optimizer.beta1: 0 leaves signum no average to save; expected a number > 0"},
        Bad{"sae:\n  aux_k: 129\n  width: 128\n",
            "5: sae.aux_k: aux_k 129 exceeds width 128; expected aux_k <= width"},
        Bad{"sae: {kind: topk, k: 12.5}\n",
            "4: sae.k: 12.5 is not a whole number, but topk keeps k latents of each "
            "row; expected a whole number, or kind batch_topk"},
        Bad{"sae: {k: 1e-5}\n",
            "4: sae.k: 1e-05 selects no latent in a batch of 4096 rows; expected k x "
            "train.batch_size >= 1"},
        Bad{"sae: {kind: jumprelu, l0_target: 33, width: 32}\n",
            "4: sae.l0_target: l0_target 33 exceeds width 32; expected l0_target <= width"},
        Bad{"sae: {encoder_init: random}\n",
            "4: sae.encoder_init: random directions of its own are for the encoder of a transcoder; expected "
            "data.target, or fit"},
        Bad{"sae: {skip: true}\n",
            "4: sae.skip: true connects the input with another dataset; expected data.target to name it, or "
            "skip false"},
        Bad{"sae: {prefixes: [0.5, 0.5]}\n",
            "4: sae.prefixes: [0.5, 0.5] does not ascend; expected each number larger than the one before"},
        Bad{"sae: {prefixes: [4, 2]}\n",
            "4: sae.prefixes: [4, 2] does not ascend; expected each number larger than the one before"},
        Bad{"sae: {prefixes: [0.5, 16]}\n",
            "4: sae.prefixes: [0.5, 16] are neither fractions nor widths; expected numbers <= 1 only, or "
            "whole numbers only"},
        Bad{"sae: {k: 4, width: 64, prefixes: [8, 65]}\n",
            "4: sae.prefixes: prefix 65 exceeds width 64; expected prefixes <= width"},
        Bad{"sae: {kind: matryoshka, prefixes: [1]}\n",
            "4: sae.prefixes: [1] with width 16384 makes a single prefix; expected two prefixes or more, or "
            "kind batch_topk"},
        Bad{"sae:\n  kind: matryoshka\n  k: 1\n  width: 1\n",
            "5: sae.kind: null with width 1 makes a single prefix; expected two prefixes or more, or kind "
            "batch_topk"},
        Bad{"train:\n  batch_size: 63\n",
            "5: train.batch_size: train.batch_size 63 is below data.lanes 64; expected a "
            "row of each lane in every batch: a larger batch_size or fewer lanes"}));

INSTANTIATE_TEST_SUITE_P(
    WithoutMeaning, Refused,
    testing::Values(
        Bad{"sae: {kind: topk, row_cap: 3}\n",
            "4: sae.row_cap: 3 has no meaning for kind topk; expected 0, or kind batch_topk or matryoshka"},
        Bad{"sae: {kind: topk, threshold_scope: local}\n",
            "4: sae.threshold_scope: local has no meaning for kind topk; expected global, or kind batch_topk "
            "or matryoshka"},
        Bad{"sae:\n  k: 64\n  kind: relu\n",
            "5: sae.k: 64 has no meaning for kind relu; expected no k, or kind topk, batch_topk or "
            "matryoshka"},
        Bad{"sae: {l1: 0.5}\n",
            "4: sae.l1: 0.5 has no meaning for kind batch_topk; expected 0, or kind relu or gated"},
        Bad{"sae: {kind: gated, l0: 0.5}\n",
            "4: sae.l0: 0.5 has no meaning for kind gated; expected 0, or kind jumprelu"},
        Bad{"sae: {l0_target: 5}\n",
            "4: sae.l0_target: 5 has no meaning for kind batch_topk; expected null, or kind jumprelu"},
        Bad{"sae: {frequency: 5}\n",
            "4: sae.frequency: 5 has no meaning for kind batch_topk; expected 0, or kind jumprelu"},
        Bad{"sae: {frequency_limit: 0.5}\n",
            "4: sae.frequency_limit: 0.5 has no meaning for kind batch_topk; expected 0.1, or kind jumprelu"},
        Bad{"sae: {bandwidth: 0.1}\n",
            "4: sae.bandwidth: 0.1 has no meaning for kind batch_topk; expected auto, or kind jumprelu"},
        Bad{"sae: {theta_init: 0.1}\n",
            "4: sae.theta_init: 0.1 has no meaning for kind batch_topk; expected auto, or kind jumprelu"},
        Bad{"sae: {theta: log}\n",
            "4: sae.theta: log has no meaning for kind batch_topk; expected direct, or kind jumprelu"},
        Bad{"sae: {penalty_warmup_steps: 5}\n",
            "4: sae.penalty_warmup_steps: 5 has no meaning for kind batch_topk; expected 10000, or kind "
            "relu, jumprelu or gated"},
        Bad{"sae: {kind: gated, decoder: free}\n",
            "4: sae.decoder: free has no meaning for kind gated; expected unit, or kind relu"},
        Bad{"sae: {kind: jumprelu, resample_every: 5}\n",
            "4: sae.resample_every: 5 has no meaning for kind jumprelu; expected 0, or kind relu or gated"},
        Bad{"sae: {resample_warmup_steps: 5}\n",
            "4: sae.resample_warmup_steps: 5 has no meaning for kind batch_topk; expected 1000, or kind relu "
            "or gated"},
        Bad{"sae:\n  l1: 0.5\nsuite:\n  - {kind: relu}\n  - {kind: topk}\n",
            "5: sae.l1: 0.5 has no meaning for kind topk; expected 0, or kind relu or gated"}));

INSTANTIATE_TEST_SUITE_P(
    Suite, Refused,
    testing::Values(
        Bad{"suite: []\n",
            "4: suite: the list is empty; expected a list of maps as `- {kind: topk, k: [32, 64]}`, "
            "or no suite"},
        Bad{"suite: {k: 3}\n",
            "4: suite: is not a list; expected a list of maps as `- {kind: topk, k: [32, 64]}`, or "
            "no suite"},
        Bad{"suite:\n  - {k: 3}\n  - topk\n",
            "6: suite: an item is not a map; expected keys of section sae as "
            "{kind: topk, k: [32, 64]}"},
        Bad{"suite:\n  - k: 3\n    widht: 4\n", "6: suite.widht: unknown key; did you mean 'width'?"},
        Bad{"suite:\n  - {lanes: 3}\n",
            "5: suite.lanes: unknown key; it belongs to section data: data.lanes"},
        Bad{"suite:\n  - {k: []}\n", "5: suite.k: the list is empty; expected a number > 0, or several"},
        Bad{"suite:\n  - k:\n    - 3\n    - many\n",
            "7: suite.k: 'many' is not a number; expected a number > 0"},
        Bad{"suite:\n  - {k: [32, [3]]}\n", "5: suite.k: is a list; expected a number > 0"},
        Bad{"suite:\n  - width: [16, 128]\n    k: [8, 32]\n",
            "6: suite.k: k 32 exceeds width 16; expected k <= width"},
        Bad{"suite:\n  - {k: 3}\n  - {k: [4, 3.0]}\n",
            "6: suite: two SAEs are named batch_topk.w16384.k3, the "
            "other of line 5; expected them to differ in a key"},
        Bad{"suite:\n  - {aux_k: [4, 4.0]}\n",
            "5: suite: two SAEs are named batch_topk.w16384.k64, both written "
            "here; expected them to differ in a key"},
        Bad{"suite:\n  - {k: 3, init_from: [a/b, a b]}\n",
            "5: suite: two SAEs are named batch_topk.w16384.k3.init_from_a_b, both written here; they "
            "differ in init_from, which no name can tell; expected other values there"}));

TEST(Errors, OfData) {
    EXPECT_EQ(
        complaint("run: {output: \"\"}\ndata:\n  files: []\n  datasets:\n    - [a]\n  lanes: 5000\n"
                  "  scale: menn\n  max_norm_ratio: 1\n  target: [b]\n"),
        "run.yaml:1: run.output: is empty; expected a folder, made if missing\n"
        "run.yaml:3: data.files: the list is empty; expected a list of files or globs\n"
        "run.yaml:4: data.datasets: an item is a list; expected a list of dataset names or globs\n"
        "run.yaml:6: data.lanes: 5000 is out of range; expected a whole number >= 1 and <= 4096\n"
        "run.yaml:7: data.scale: 'menn' is not a value of this key; expected mean_square, sqrt_dim, none or "
        "a "
        "number > 0\n"
        "run.yaml:8: data.max_norm_ratio: 1 would drop half of the rows or more; expected 0 (keep all) or a "
        "number > 1\n"
        "run.yaml:9: data.target: is a list; expected null or a dataset name");
    EXPECT_THAT(complaint(least, {"data.target=\"\""}),
                HasSubstr("is empty; expected null or a dataset name"));
    for (const std::string name : {"*/*", "mlp_out/**", "mlp_out/1?", "mlp_out/[12]", "//"})
        EXPECT_EQ(
            complaint(least, {"data.target='" + name + "'"}),
            "--set data.target: '" + name +
                "' is not the name of one dataset for each input; expected a name in which one '*' at most "
                "stands for the end of the input's name, after its last '/'");
    EXPECT_THAT(
        complaint("run: {output: x}\ndata: {files: 5, datasets: b, shuffle_rows: 127}\n"),
        HasSubstr("data.files: '5' is not a list; expected a list of files or globs\n"
                  "run.yaml:2: data.shuffle_rows: data.shuffle_rows 127 is below two rows for each of the 64 "
                  "data.lanes; expected >= 128"));
    EXPECT_THAT(complaint(least, {"data.scale=0"}), HasSubstr("0 is out of range; expected mean_square"));
    EXPECT_THAT(complaint(least, {"run.device=gpu"}),
                HasSubstr("'gpu' is not a value of this key; expected auto, cpu or cuda"));
    EXPECT_THAT(complaint(least, {"run.reproducible=true"}), HasSubstr("expected false"));
}

TEST(Errors, MissingKeys) {
    const std::string all =
        "run.yaml:1: run.output: is missing; expected a folder, made if missing\n"
        "run.yaml:1: data.files: is missing; expected a list of files or globs\n"
        "run.yaml:1: data.datasets: is missing; expected a list of dataset names or globs";
    EXPECT_EQ(complaint(""), all);
    EXPECT_EQ(complaint("# nothing\n"), all);
    EXPECT_EQ(complaint("---\n"), all);
    EXPECT_EQ(complaint("run:\n  output: x\n\ndata:\n  files: [a]\n"),
              "run.yaml:4: data.datasets: is missing; expected a list of dataset names or globs");
}

TEST(Errors, OfOptions) {
    const auto of = [](const std::string& option) { return complaint(least, {option}); };
    EXPECT_EQ(of("train.tokns=5"), "--set train.tokns: unknown key; did you mean 'tokens'?");
    EXPECT_EQ(of("trian.tokens=5"), "--set trian.tokens: unknown section 'trian'; did you mean 'train'?");
    EXPECT_EQ(of("tokens=5"), "--set tokens: unknown key; it belongs to section train: train.tokens");
    EXPECT_EQ(of("sae.tokens=5"), "--set sae.tokens: unknown key; it belongs to section train: train.tokens");
    EXPECT_EQ(of("train.tokens"), "--set train.tokens: no value; expected section.key=value");
    EXPECT_EQ(of("train.tokens="), "--set train.tokens: has no value; expected a whole number >= 1");
    EXPECT_EQ(of("train.tokens=many"),
              "--set train.tokens: 'many' is not a whole number; expected a whole number >= 1");
    EXPECT_EQ(of("data.files=[a"), "--set data.files: not YAML: end of sequence flow not found");
    EXPECT_EQ(of("data.files=[*.h5]"),
              "--set data.files: not YAML: the referenced anchor is not defined; a value "
              "that begins with '*' needs quotes");
    EXPECT_EQ(of("sae.atm.decai=1"), "--set sae.atm.decai: unknown key; did you mean 'decay'?");
    EXPECT_EQ(of("sae.atm.c=x"), "--set sae.atm.c: 'x' is not a number; expected a number");
    EXPECT_EQ(of("sae.atm={c: x}"), "--set sae.atm.c: 'x' is not a number; expected a number");
    EXPECT_EQ(of("atm.c=1"), "--set atm.c: unknown section 'atm'; it belongs to section sae: sae.atm");
    EXPECT_EQ(of("sae.width.c=1"), "--set sae.width.c: unknown key; did you mean 'width'?");
    EXPECT_THAT(of("suite.atm.c=3"), HasSubstr("--set suite.atm.c: a suite has no keys of its own"));
    EXPECT_THAT(of("suite.k=3"), HasSubstr("--set suite.k: a suite has no keys of its own"));
    EXPECT_EQ(of("suite=[{k: 0}]"), "--set suite.k: 0 is out of range; expected a number > 0");
    EXPECT_EQ(
        of("train.batch_size=4"),
        "--set train.batch_size: train.batch_size 4 is below data.lanes 64; expected a row of each lane in "
        "every batch: a larger batch_size or fewer lanes");
    EXPECT_THAT(of(""), HasSubstr("--set : no value"));
    EXPECT_THAT(of("sae.=3"), HasSubstr("--set sae.: unknown key; expected one of kind, width, k,"));
}

TEST(Errors, AllAtOnceInTheOrderOfLines) {
    EXPECT_EQ(
        complaint("train: {tokens: x}\nrun: {outptu: y}\nsae: {k: 3, kind: topkk}\n",
                  {"data.files=[]", "a.b=3"}),
        "run.yaml:1: data.datasets: is missing; expected a list of dataset names or globs\n"
        "run.yaml:1: train.tokens: 'x' is not a whole number; expected a whole number >= 1\n"
        "run.yaml:2: run.outptu: unknown key; did you mean 'output'?\n"
        "run.yaml:2: run.output: is missing; expected a folder, made if missing\n"
        "run.yaml:3: sae.kind: 'topkk' is not a value of this key; expected relu, topk, batch_topk, "
        "jumprelu, gated or matryoshka; did you mean 'topk'?\n"
        "--set a.b: unknown section 'a'; expected one of run, data, train, optimizer, sae, parallel, suite\n"
        "--set data.files: the list is empty; expected a list of files or globs");
}

TEST(Errors, OfTheFileItself) {
    EXPECT_EQ(complaint("run:\n  output: [x\ndata: {}\n"),
              "run.yaml:3:5: not YAML: end of sequence flow not found");
    EXPECT_EQ(complaint("run:\n\toutput: x\n"),
              "run.yaml:2:8: not YAML: illegal map value; YAML is indented with spaces, not tabs");
    EXPECT_THAT(complaint("data:\n  files: [*.h5]\n"),
                HasSubstr("a value that begins with '*' needs quotes"));
    EXPECT_EQ(complaint("a: 1\n---\nb: 2\n"), "run.yaml: holds 2 YAML documents; expected one");
    EXPECT_THAT(complaint("- a\n- b\n"), HasSubstr("run.yaml:1: is not a configuration; expected sections"));
    EXPECT_THAT(complaint("just words\n"), HasSubstr("run.yaml:1: is not a configuration"));
    const test::Folder folder;
    const std::string missing = folder / "none.yaml";
    const std::string a_folder = folder / "";
    const auto message = [](const std::string& path) -> std::string {
        try {
            load_config(path, {});
        } catch (const UsageError& error) {
            return error.what();
        }
        return "";
    };
    EXPECT_EQ(message(missing), missing + ": cannot read: No such file or directory");
    EXPECT_EQ(message(a_folder), a_folder + ": is a folder; expected a YAML file");
}

// Whatever bytes stand in the file: a configuration or a UsageError.
TEST(Errors, NoBytesCrash) {
    const std::string whole =
        least +
        "sae: {k: [1, 2], atm: {c: 1}}\nsuite:\n  - {k: &a [4, 5], width: *a, atm: [null, {c: [0, 1]}]}\n";
    for (std::size_t size = 0; size < whole.size(); ++size)
        EXPECT_NO_FATAL_FAILURE(complaint(whole.substr(0, size)));
    std::uint64_t state = 1;
    for (int i = 0; i < 2000; ++i) {
        std::string text = whole;
        for (int j = 0; j < 3; ++j) {
            state = state * 6364136223846793005U + 1442695040888963407U;
            text[(state >> 33) % text.size()] = static_cast<char>(state >> 25);
        }
        complaint(text);
    }
    EXPECT_NE(complaint("suite: &a [*a]\n"), "");
    EXPECT_NE(complaint(least + "suite: [&a {atm: *a}]\n"), "");
    EXPECT_NE(complaint(least + "sae: {atm: &a {c: *a}}\n"), "");
    EXPECT_NE(complaint(std::string(20000, '[')), "");
    EXPECT_NE(complaint(std::string(20000, 'x') + ": 1\n"), "");
    EXPECT_THAT(complaint(least + "suite:\n  - {k: " +
                          [] {
                              std::string list = "[1";
                              for (int i = 2; i < 200; ++i) list += ", " + std::to_string(i);
                              return list + "], width: " + list + "]}\n";
                          }()),
                HasSubstr("more than 10000 SAEs"));
}

}  // namespace
}  // namespace strata
