#pragma once
// The gradients of the whole batch from those of the ranks.

#include "train/step.h"

namespace strata::train {

// Hands the finished gradients of the matrices' latents [first, last) to the reduction over ranks: all of
// them, or, where ranks share memory, those with the same place in their groups, which call it with the same
// latents in the same order.
void hand_on(Workbench& bench, std::int64_t first, std::int64_t last);

// Afterwards bench.gradient holds the sums over all ranks: of the matrices, in the slice of latents that this
// rank updates, and of the small tensors. `dense`: made by dense products, of all latents from this rank's
// rows alone. Returns the squared norm of all. Collective.
double reduce_gradients(Workbench& bench, bool dense);

// All ranks of the group have the slices of the weights that each has just changed. Collective over it.
void spread_weights(Workbench& bench, const device::Tensors& sae);

}  // namespace strata::train
