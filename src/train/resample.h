#pragma once
// New starts for latents that stay silent (ReLU, gated; Bricken et al. 2023): each takes the direction of a
// row that is reconstructed badly, drawn with a probability in proportion to the norm of its error.

#include <cstdint>
#include <vector>

#include "train/step.h"

namespace strata::train {

// After step `step` with the batch still in the device. Latents silent for more than half of the last
// resample_every steps get d_j = xc_b / |xc_b| (0.1 of it where rows are free), w_j = 0.2 of the mean |w| of
// the others times that, b_enc_j and the kind's own parameters = 0, zero moments and silence. Returns them;
// none where every row is reconstructed without error or is b_dec itself. Collective; every rank draws the
// same rows.
std::vector<std::uint32_t> resample(Workbench& bench, TrainedSae& sae, const OptimizerConfig& optimizer,
                                    std::int64_t step);

// What the learning rate is multiplied with after a resampling: from a tenth back to one by half a cosine.
double rate_after_resampling(const TrainedSae& sae, std::int64_t step);

}  // namespace strata::train
