#pragma once
// From a batch in the device to all that its gradients are made of, for either sort of kind.

#include "train/step.h"

namespace strata::train {

struct Pass {
    device::DecodeSums sums;           // this rank's
    float threshold = 0;               // smallest value that could be selected; 0 for elementwise kinds
    bool dense = false;                // the gradients of the four tensors are made already
    double square_norm = 0;            // if so: of those of the matrices
    sae::Rule rule;                    // elementwise kinds
    double frozen_error = 0;           // gated: squared error of the frozen reconstruction
    double gate_sum = 0;               // gated: sum of the gate's codes
    std::vector<device::SetUse> uses;  // what accumulate() has to do; views of `rule`
    device::LatentSums main, gate, window, observed;
    std::uint64_t left_out = 0;  // of the observed codes, by masks
};

// Encode, gate, decode and backprop. `masked`: the device has a mask, so the observed codes are wanted too.
// Collective.
void run_pass(Workbench& bench, TrainedSae& sae, const data::Batch& batch, const sae::Moment& moment,
              bool masked, Pass& pass);

}  // namespace strata::train
