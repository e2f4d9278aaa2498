#pragma once
// Activations of known making: sparse non-negative combinations of known directions, so that a trained SAE
// can be held against the truth.
//
//   x = mean + sum over the firing features i of m_i d_i + noise
//
// d_i: unit vectors of random direction, more of them than dimensions, hence not orthogonal. Features fire
// with probabilities that fall as a power of their rank; their magnitudes m_i are log-normal, so
// heavy-tailed. Some features come in groups of four that fire together more often than chance, some are
// children that fire only with their parent.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace strata::data {

// The defaults can be learned: a BatchTopK SAE of width 512 and k 8 finds more than nine of ten features
// within a million rows. Children are hardest, since an SAE gains from one latent for parent and child
// together.
struct SynthConfig {
    std::int64_t rows = 500'000;
    std::int64_t n = 128;
    std::int64_t features = 256;  // F
    double active = 8;            // mean number of features that fire in a row
    std::uint64_t seed = 0;
    Type type = Type::float16;
    double power = 0.4;     // probability ~ rank^-power
    double spread = 0.5;    // standard deviation of log m_i
    double grouped = 0.25;  // share of features in groups of four, each on in a quarter of its group's rows
    double children = 1.0 / 32;  // share of features that fire only with a parent, in 3 of 10 of its rows
    double noise = 0.1;          // root mean square of the noise relative to that of the features' sum
    double mean = 0.25;          // share of the mean in E|x|^2
};

struct Truth {
    std::vector<float> directions;      // [F, n], unit rows
    std::vector<double> probabilities;  // [F]
    std::vector<std::int64_t> parent;   // [F], -1: none
    std::vector<std::int64_t> group;    // [F], -1: none
    std::vector<float> mean;            // [n]
    double noise = 0;                   // standard deviation of each element
};

// UsageError for sizes and shares that make no sense: features or rows below 1, `active` above what the
// features can carry (no feature fires in more than nine rows of ten), shares outside [0, 1].
Truth make_truth(const SynthConfig& config);

// Rows [first, first + out.size() / n) of the endless set; a row depends on the seed and its own index alone.
// `fired`, [F], counts the rows in which each feature fired; may be empty.
void make_rows(const SynthConfig& config, const Truth& truth, std::int64_t first, std::span<float> out,
               std::span<std::uint64_t> fired = {});

// Writes `resid_post/0` [rows, n], and beside it, float32, the truth: `true_features` [F, n],
// `true_frequencies` [F] (the share of the file's rows in which each fired), `true_mean` [n]. `progress` is
// told the rows done, now and then. UsageError if the file exists.
void write_synthetic(const std::filesystem::path& path, const SynthConfig& config,
                     const std::function<void(std::int64_t)>& progress = {});

// The true features [F, n] that stand beside a dataset (in its first file); empty where there are none.
// RunError if they cannot be read or are not [F, n].
std::vector<float> true_features_of(const Dataset& dataset);

// The share of true features, rows of [F, n], that have some row of `decoder` [M, n] at a cosine of at least
// `cosine`. Rows need not have unit length; zero rows match nothing. 2 F M n flops.
double recovered_share(std::span<const float> true_features, std::span<const float> decoder, std::int64_t n,
                       double cosine);

}  // namespace strata::data
