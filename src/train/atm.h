#pragma once
// Adaptive temporal masking (after arXiv 2510.08855; the choices that its text leaves open are ours,
// docs/methods.md): latents whose importance, a moving average of how much, how often and how usefully they
// fire, is below a threshold are left out of a step at random. The draws are functions of (seed, step, latent
// or row), the same on every rank.

#include <cstdint>
#include <span>
#include <vector>

#include "config/config.h"
#include "device/device.h"

namespace strata::train {

// Moving averages over steps, [M] each, zero at the start; divided by 1 - decay^steps in use.
struct AtmState {
    std::vector<double> activation, frequency, contribution;
    std::int64_t steps = 0;
};

AtmState make_atm(std::int64_t width);

// What the masks of a step are, before they are drawn.
struct AtmPlan {
    std::vector<float> probability;  // [M] of being masked; empty: no masks yet
    std::vector<char> above;         // [M] importance at or above the threshold
    double threshold = 0, mean_probability = 0, above_share = 0;
};

AtmPlan plan_masks(const AtmState& state, const AtmConfig& config, std::int64_t step);

// The masks of a step for this rank's rows, the first of which is global row `first`.
struct AtmDraw {
    std::vector<float> draw, probability;
    device::Mask mask() const { return {draw, probability}; }
};

AtmDraw draw_masks(const AtmPlan& plan, const AtmConfig& config, std::uint64_t seed, std::int64_t step,
                   std::int64_t first, std::int64_t rows);

// Adds a step: sums over all `rows` rows of the global batch of the codes without masks, [M] each; `change`
// is that of Device::observe(). Latents in `fresh` start from the mean of the others.
void update_atm(AtmState& state, const AtmConfig& config, std::span<const double> value,
                std::span<const double> count, std::span<const double> change, std::int64_t rows,
                std::span<const std::uint32_t> fresh);
void refresh_atm(AtmState& state, std::span<const std::uint32_t> fresh);

struct AtmReport {
    double threshold = 0, mean_probability = 0, above_share = 0;
    double masked_share = 0;  // of the codes without masks
};

}  // namespace strata::train
