#pragma once
// Quality of an SAE on rows it was not trained on, by the rule of inference, summed over all ranks.

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
    double squared_error = 0;  // sum of |x - x_hat|^2
    double prefix_error = 0;   // the same over all prefixes
    double x_square = 0;       // sum of |x|^2
    double active = 0, l1 = 0, cosine = 0;
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
    double dead_fraction = 0;   // latents active on no row
    double dense_fraction = 0;  // latents active on more than a tenth of the rows
};

// Adds the batch that the device has just decoded (main codes).
void add_batch(device::Device& device, const device::Tensors& sae, std::int64_t rows,
               const device::DecodeSums& decoded, Sums& sums);

// Collective: sums over ranks.
void reduce(Communicator& comm, Sums& sums);

Measures measures(const Sums& sums);

// Rows of a batch of inference: at most `most`, and few enough that lists of codes stay small though half of
// all pairs should be active, as in a ReLU SAE that was hardly trained.
std::int64_t inference_rows(std::int64_t most, std::int64_t width);

// Rows [first, last) of a dataset in global batches of `batch_size`, rows over the norm limit left out,
// others scaled, each with its target where the dataset has one; this rank's share of each batch. Calls
// `each` for every batch on every rank (possibly with no rows), with the rows of the global batch. Returns
// the rows left out, all ranks. Collective.
std::int64_t for_each_batch(const data::Dataset& dataset, std::int64_t first, std::int64_t last,
                            std::int64_t batch_size, double norm_limit, double scale, Communicator& comm,
                            const std::function<void(const data::Batch&, std::int64_t global_rows)>& each);

}  // namespace strata::eval
