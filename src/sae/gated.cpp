// Gated SAE with tied weights (Rajamanoharan et al., arXiv 2404.16014): with u = (x - b_dec) w_j
//   gate = u + b_enc,   magnitude = e^rho u + beta,   f = ReLU(magnitude) where gate > 0
//   loss + lambda/B sum ReLU(gate) + 1/B sum_b |y - ReLU(gate) W_dec - b_dec|^2, W_dec and b_dec constant in
//   it
// Own parameters: rho, then beta. As z is the gate, u = z - b_enc.

#include <algorithm>
#include <cmath>

#include "sae/kind.h"

namespace strata::sae {
namespace {

double coefficient(const Moment& at) {
    return at.unit * at.config.l1 * at.ramp;
}

// The magnitude is the gate: rho = 0, beta = b_enc.
void start(const Moment&, std::span<const float> b_enc, std::span<float> own) {
    std::ranges::fill(own.first(b_enc.size()), 0.0F);
    std::ranges::copy(b_enc, own.last(b_enc.size()).begin());
}

Rule rule(const Moment& at) {
    const std::size_t width = at.own.size() / 2;
    Rule rule;
    rule.frozen = true;
    rule.threshold.assign(width, 0.0F);
    rule.gain.resize(width);
    for (std::size_t j = 0; j < width; ++j) rule.gain[j] = std::exp(at.own[j]);
    rule.offset.assign(at.own.begin() + static_cast<std::ptrdiff_t>(width), at.own.end());
    rule.penalty.assign(width, static_cast<float>(coefficient(at) / static_cast<double>(at.rows)));
    return rule;
}

double penalty(const Moment& at, const BatchSums&, double l1, double frozen_error) {
    return (coefficient(at) * l1 + frozen_error) / static_cast<double>(at.rows);
}

void own_gradient(const Moment& at, const BatchSums&, const OwnSums& sums, std::span<float> gradient,
                  std::span<float> b_enc) {
    const std::size_t width = b_enc.size();
    for (std::size_t j = 0; j < width; ++j) {
        const double beta = at.own[width + j];
        gradient[j] = static_cast<float>(sums.main.value_gradient[j] - beta * sums.main.gradient[j]);
        gradient[width + j] = static_cast<float>(sums.main.gradient[j]);
        b_enc[j] = static_cast<float>(sums.gate.gradient[j]);  // the codes do not depend on the gate's bias
    }
}

void fold(const Moment& at, std::span<float> w_enc, std::span<float> b_enc, std::span<float> threshold) {
    const std::size_t width = b_enc.size();
    const std::size_t n = w_enc.size() / width;
    for (std::size_t j = 0; j < width; ++j) {
        const float gain = std::exp(at.own[j]);
        const float beta = at.own[width + j];
        for (float& w : w_enc.subspan(j * n, n)) w *= gain;
        threshold[j] = std::max(0.0F, beta - gain * b_enc[j]);
        b_enc[j] = beta;
    }
}

// With rho = 0: magnitude = u + beta as saved, gate = u + beta - threshold.
void unfold(const Moment&, std::span<const float> threshold, std::span<float> b_enc, std::span<float> own) {
    const std::size_t width = b_enc.size();
    for (std::size_t j = 0; j < width; ++j) {
        own[j] = 0;
        own[width + j] = b_enc[j];
        b_enc[j] -= threshold[j];
    }
}

}  // namespace

const Kind gated = {.name = "gated",
                    .inference = Inference::own,
                    .per_latent = 2,
                    .start = start,
                    .rule = rule,
                    .penalty = penalty,
                    .own_gradient = own_gradient,
                    .lower = lower_thresholds_of_u,
                    .fold = fold,
                    .unfold = unfold};

}  // namespace strata::sae
