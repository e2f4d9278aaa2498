#pragma once
// From a batch in the device to its gradients, for either sort of kind.

#include <algorithm>
#include <span>

#include "train/step.h"

namespace strata::train {

struct Pass {
    device::DecodeSums sums;      // this rank's
    float threshold = 0;          // smallest value that could be selected; 0 for elementwise kinds
    device::LatentSums observed;  // with adaptive temporal masking: the codes without masks
    std::uint64_t left_out = 0;   // of these, by masks
    double missed_scale = 0;      // of the auxiliary loss; 0: there is none

    // Elementwise kinds.
    device::LatentSums main;  // the codes
    bool dense = false;       // by dense products
    sae::Rule rule;
    device::LatentSums gate, window;
    double frozen_error = 0;  // gated: squared error of the frozen reconstruction
    double gate_sum = 0;      // gated: sum of the gate's codes
};

// Encode, gate, decode, backprop and the gradients, handed on as they are finished. `masked`: the device has
// a mask; `dead`: latents, for the auxiliary loss. Collective.
void run_pass(Workbench& bench, TrainedSae& sae, const data::Batch& batch, const sae::Moment& moment,
              bool masked, std::span<const std::uint32_t> dead, Pass& pass);

// Has the device take the rows of a batch, in as few ranges as it holds, about equal ones, and calls visit()
// for each; for no rows once.
template <typename Visit>
void for_each_range(const Workbench& bench, std::int64_t rows, const Visit& visit) {
    const std::int64_t ranges = rows <= bench.rows_at_once ? 1 : (rows - 1) / bench.rows_at_once + 1;
    const std::int64_t each = device::up_to_range((rows + ranges - 1) / ranges);
    std::int64_t first = 0;
    do {
        const std::int64_t last = std::min(first + each, rows);
        bench.device.take_rows(first, last);
        visit();
        first = last;
    } while (first < rows);
}

}  // namespace strata::train
