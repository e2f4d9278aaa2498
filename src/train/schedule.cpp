#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace strata::train {

namespace {

// lr = shortest * sqrt(B / 1024 * 2304 / M) for runs of 5e5 rows or fewer, and falls from there by
// `exponent`.
struct RateRule {
    double shortest, exponent;
};

// At short lengths a high rate that leaves less than one latent in a hundred dead, with the auxiliary loss or
// falling thresholds acting (docs/methods.md); the exponents lead to the rates that the papers give for their
// lengths: BatchTopK 3e-4 for 1e9 rows (M = 12288); JumpReLU, as in Gemma Scope, 7e-5 for 4e9 (M = 16384);
// gated 3e-4 for 1.2e9 (M = 131072), all with batches of 4096; relu, as in SAEBench, 3e-4 for 5e8 (M = 16384)
// with batches of 2048.
RateRule rule_of(const std::string& kind) {
    if (kind == "jumprelu") return {4e-3, 0.418};
    if (kind == "matryoshka") return {2.2e-3, 0.242};
    if (kind == "gated") return {3e-3, 0.125};
    if (kind == "relu") return {4.6e-3, 0.3};
    return {3e-3, 0.284};
}

}  // namespace

double automatic_rate(const SaeConfig& sae, std::int64_t batch_size, std::int64_t tokens) {
    const RateRule rule = rule_of(sae.kind);
    const double size =
        std::sqrt(static_cast<double>(batch_size) / 1024 * 2304 / static_cast<double>(sae.width));
    const double length = std::min(1.0, 5e5 / static_cast<double>(tokens));
    return rule.shortest * size * std::pow(length, rule.exponent);
}

std::int64_t warmup_steps(const OptimizerConfig& optimizer, std::int64_t steps) {
    return std::min(optimizer.warmup_steps, steps / 10);
}

double rate_at(double rate, const OptimizerConfig& optimizer, std::int64_t step, std::int64_t steps) {
    const double warmup = static_cast<double>(warmup_steps(optimizer, steps));
    const double decay = optimizer.decay_fraction * static_cast<double>(steps);
    double factor = 1;
    if (warmup > 0 && static_cast<double>(step) < warmup) {
        const double part = static_cast<double>(step + 1) / warmup;
        factor =
            optimizer.warmup == "cosine" ? 0.1 + 0.9 * (1 - std::cos(std::numbers::pi * part)) / 2 : part;
    }
    // An average over steps needs no decay.
    if (decay > 0 && optimizer.kind == "adam")
        factor = std::min(factor, static_cast<double>(steps - step) / decay);
    return rate * factor;
}

}  // namespace strata::train
