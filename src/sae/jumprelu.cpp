// JumpReLU (Rajamanoharan et al., arXiv 2407.14435; recipe of Gemma Scope, arXiv 2408.05147):
//   f = z where z > theta_j,   loss + lambda L0,   L0 = 1/B sum H(z - theta)
// theta learns through the straight-through estimates, K = 1 where |z - theta| < epsilon/2 (both sides) and z
// > 0:
//   d f / d theta = -theta/epsilon K,   d H / d theta = -1/epsilon K
// Penalties: lambda L0; lambda (L0/T - 1)^2 for a target T; and sum_j max(0, p_j - p_max)^2 of the firing
// frequencies p (ours; Gemma Scope 2 has one of unknown form).

#include <algorithm>
#include <cmath>

#include "sae/kind.h"
#include "sae/sae.h"

namespace strata::sae {
namespace {

constexpr double floor_of_theta = 1e-6;

bool logarithmic(const Moment& at) {
    return at.config.theta == "log";
}

double theta(const Moment& at, std::size_t j) {
    return logarithmic(at) ? std::exp(at.own[j]) : at.own[j];
}

void start(const Moment& at, std::span<const float>, std::span<float> own) {
    const double wanted = at.config.theta_init ? at.unit * *at.config.theta_init
                                               : beginning_of(at.config, at.parameters).theta * at.spread;
    const double value = std::max(wanted, at.unit * floor_of_theta);
    std::ranges::fill(own, static_cast<float>(logarithmic(at) ? std::log(value) : value));
}

Rule rule(const Moment& at) {
    Rule rule;
    rule.threshold.resize(at.own.size());
    for (std::size_t j = 0; j < at.own.size(); ++j) rule.threshold[j] = static_cast<float>(theta(at, j));
    rule.window = static_cast<float>(at.unit * bandwidth_of(at.config));
    return rule;
}

// Coefficient of the L0 penalty, and of its derivative by L0.
double coefficient(const Moment& at) {
    const double l0 = at.config.l0_target && at.config.l0 == 0 ? 1 : at.config.l0;
    return at.unit * at.unit * l0 * at.ramp;
}

double slope(const Moment& at, double l0) {
    if (!at.config.l0_target) return coefficient(at);
    const double target = *at.config.l0_target;
    return coefficient(at) * 2 * (l0 / target - 1) / target;
}

double excess(const Moment& at, const BatchSums& batch, std::size_t j) {
    return std::max(0.0, batch.count[j] / static_cast<double>(at.rows) - at.config.frequency_limit);
}

double frequency_coefficient(const Moment& at) {
    return at.unit * at.unit * at.config.frequency * at.ramp;
}

double penalty(const Moment& at, const BatchSums& batch, double, double) {
    const double l0 = batch.active / static_cast<double>(at.rows);
    const double off = at.config.l0_target ? l0 / *at.config.l0_target - 1 : 0;
    double loss = coefficient(at) * (at.config.l0_target ? off * off : l0);
    if (at.config.frequency > 0)
        for (std::size_t j = 0; j < batch.count.size(); ++j)
            loss += frequency_coefficient(at) * excess(at, batch, j) * excess(at, batch, j);
    return loss;
}

bool counts_latents(const SaeConfig& config) {
    return config.frequency > 0;
}

void own_gradient(const Moment& at, const BatchSums& batch, const OwnSums& sums, std::span<float> gradient,
                  std::span<float>) {
    const double epsilon = at.unit * bandwidth_of(at.config);
    const double l0_slope = slope(at, batch.active / static_cast<double>(at.rows));
    for (std::size_t j = 0; j < gradient.size(); ++j) {
        const double value = theta(at, j);
        double by_count = l0_slope;
        if (at.config.frequency > 0) by_count += frequency_coefficient(at) * 2 * excess(at, batch, j);
        const double slope = -value / epsilon * sums.window.gradient[j] -
                             by_count / (static_cast<double>(at.rows) * epsilon) * sums.window.count[j];
        gradient[j] = static_cast<float>(logarithmic(at) ? value * slope : slope);
    }
}

void lower(const Moment& at, std::span<const std::uint32_t> latents, double factor, std::span<float> own,
           std::span<float>) {
    for (const std::uint32_t j : latents)
        own[j] = static_cast<float>(logarithmic(at) ? own[j] + std::log(factor) : own[j] * factor);
}

void constrain(const Moment& at, std::span<float> own) {
    if (logarithmic(at)) return;
    for (float& value : own) value = std::max(value, static_cast<float>(at.unit * floor_of_theta));
}

void fold(const Moment& at, std::span<float>, std::span<float>, std::span<float> threshold) {
    for (std::size_t j = 0; j < threshold.size(); ++j) threshold[j] = static_cast<float>(theta(at, j));
}

void unfold(const Moment& at, std::span<const float> threshold, std::span<float>, std::span<float> own) {
    for (std::size_t j = 0; j < threshold.size(); ++j) {
        const double value = std::max<double>(threshold[j], at.unit * floor_of_theta);
        own[j] = static_cast<float>(logarithmic(at) ? std::log(value) : value);
    }
}

}  // namespace

const Kind jumprelu = {.name = "jumprelu",
                       .inference = Inference::own,
                       .per_latent = 1,
                       .start = start,
                       .rule = rule,
                       .penalty = penalty,
                       .counts_latents = counts_latents,
                       .own_gradient = own_gradient,
                       .lower = lower,
                       .constrain = constrain,
                       .fold = fold,
                       .unfold = unfold};

}  // namespace strata::sae
