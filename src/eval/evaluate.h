#pragma once
// Quality of an SAE on rows it was not trained on, by the rule of inference, summed over all ranks.

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "data/dataset.h"
#include "data/stream.h"
#include "device/device.h"
#include "sae/kind.h"

namespace strata::eval {

// Sums over rows, from which every measure follows; adding two of them is adding the rows.
struct Sums {
    double rows = 0;
    device::DecodeSums decoded;
    double x_square = 0;               // sum of |x|^2; of a transcoder, here and below, of its target
    std::vector<double> x;             // [n] sum of x
    std::vector<std::uint64_t> fired;  // [M] rows on which a latent is active

    Sums(std::int64_t n, std::int64_t width)
        : x(static_cast<std::size_t>(n)), fired(static_cast<std::size_t>(width)) {}
};

struct Measures {
    double rows = 0;
    double reconstruction = 0;  // mean over rows of |x - x_hat|^2, in the units of the rows given
    double over_prefixes = 0;   // the same summed over prefixes
    double fvu = 0;             // sum |x - x_hat|^2 / sum |x - mean x|^2
    double l0 = 0, l1 = 0, cosine = 0;
    // sum |x_hat|^2 / sum x_hat . x: the factor by which reconstructions are off along themselves; below 1
    // they shrink
    double relative_bias = 0;
    double dead_fraction = 0;   // latents active on no row
    double dense_fraction = 0;  // latents active on more than a tenth of the rows
    // Latents by the share of rows on which they are active: [0] of none; [i] from 10^((i - 1) / 2 - decades)
    // to sqrt(10) times that, the rarer among [1].
    static constexpr int frequency_decades = 6;
    std::array<std::int64_t, 2 * frequency_decades + 1> frequencies{};
};

// Adds the batch that the device has just decoded (main codes).
void add_batch(device::Device& device, const device::Tensors& sae, std::int64_t rows,
               const device::DecodeSums& decoded, Sums& sums);
// The same where the device no longer has all of its codes; `count`, [M]: those of each latent.
void add_batch(device::Device& device, const device::Tensors& sae, std::int64_t rows,
               const device::DecodeSums& decoded, std::span<const double> count, Sums& sums);

// Collective: sums over ranks.
void reduce(Communicator& comm, Sums& sums);

Measures measures(const Sums& sums);

// Rows of a batch of inference: at most `most`, and few enough that lists of codes stay small though half of
// all pairs should be active, as in a ReLU SAE that was hardly trained.
std::int64_t inference_rows(std::int64_t most, std::int64_t width);

// Rows [first, last) of a dataset in global batches of `batch_size` for a device, rows over the norm limit
// left out (and corrupt ones, where the dataset leaves them out), others scaled, each with its target where
// the dataset has one; this rank's share of each batch. Calls `each` for every batch on every rank (possibly
// with no rows), with the rows of the global batch. Returns the rows left out, all ranks. Collective.
data::LeftOut for_each_batch(device::Device& device, const data::Dataset& dataset, std::int64_t first,
                             std::int64_t last, std::int64_t batch_size, double norm_limit, double scale,
                             Communicator& comm,
                             const std::function<void(const data::Batch&, std::int64_t global_rows)>& each);

}  // namespace strata::eval
