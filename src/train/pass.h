#pragma once
// From a batch in the device to all that its gradients are made of, for either sort of kind.

#include "train/step.h"

namespace strata::train {

struct Pass {
    device::DecodeSums sums;      // this rank's
    float threshold = 0;          // smallest value that could be selected; 0 for elementwise kinds
    device::LatentSums observed;  // with adaptive temporal masking: the codes without masks
    std::uint64_t left_out = 0;   // of these, by masks

    // Elementwise kinds.
    device::LatentSums main;  // the codes
    bool dense = false;       // by dense products
    sae::Rule rule;
    device::LatentSums gate, window;
    double frozen_error = 0;  // gated: squared error of the frozen reconstruction
    double gate_sum = 0;      // gated: sum of the gate's codes
};

// Encode, gate, decode and backprop; of elementwise kinds the gradients too, handed on as they are finished.
// `masked`: the device has a mask. Collective.
void run_pass(Workbench& bench, TrainedSae& sae, const data::Batch& batch, const sae::Moment& moment,
              bool masked, Pass& pass);

}  // namespace strata::train
