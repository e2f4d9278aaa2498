#pragma once
// Learning rates.

#include <cstdint>

#include "config/config.h"

namespace strata::train {

// The rate that `lr: auto` stands for (docs/methods.md, "Learning rate"):
//   a sqrt(B / 1024 * 2304 / M) * min(1, 5e5 / tokens)^e
// with a and e by kind: a measured, e so that runs as long as the papers' get the papers' rates.
double automatic_rate(const SaeConfig& sae, std::int64_t batch_size, std::int64_t tokens);

// Steps of warm-up actually used: warmup_steps, but at most a tenth of the run, so that a short run is
// not all warm-up.
std::int64_t warmup_steps(const OptimizerConfig& optimizer, std::int64_t steps);

// Rate of step `step` (from 0) of `steps`: from rate / warmup to rate, linearly, or from a tenth of it by
// half a cosine (Gemma Scope); constant; with Adam linear to zero over the last decay_fraction of the steps.
double rate_at(double rate, const OptimizerConfig& optimizer, std::int64_t step, std::int64_t steps);

}  // namespace strata::train
