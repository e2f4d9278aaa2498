#pragma once
// From codes to the gradients of the whole batch.

#include "train/pass.h"

namespace strata::train {

// Makes this rank's gradients and hands finished ones to the reduction over ranks; returns the squared norm
// of those of the matrices. Fills the pass's sums by latent.
double accumulate_gradients(Workbench& bench, const TrainedSae& sae, Pass& pass,
                            std::span<const device::SetUse> uses);

// Afterwards bench.gradient holds the sums over all ranks: of the matrices, in the slice of latents that this
// rank updates, and of the small tensors. Returns the squared norm of all. Collective.
double reduce_gradients(Workbench& bench, double own_norm);

}  // namespace strata::train
