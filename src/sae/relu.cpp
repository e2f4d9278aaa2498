// ReLU with an L1 penalty: f = ReLU(z), loss + lambda/B sum_b sum_j f_bj |d_j|. With unit decoder rows as in
// "Towards Monosemanticity" (2023), with free ones as in its update of April 2024.

#include "sae/kind.h"

namespace strata::sae {
namespace {

double coefficient(const Moment& at) {
    return at.unit * at.config.l1 * at.ramp;
}

Rule rule(const Moment& at) {
    const auto width = static_cast<std::size_t>(at.parameters.width);
    Rule rule;
    rule.threshold.assign(width, 0.0F);
    const double each = coefficient(at) / static_cast<double>(at.rows);
    if (each == 0) return rule;
    rule.penalty.assign(width, static_cast<float>(each));
    if (at.decoder_norms.empty()) return rule;
    rule.shrink.resize(width);
    for (std::size_t j = 0; j < width; ++j) {
        const double norm = at.decoder_norms[j];
        rule.penalty[j] = static_cast<float>(each * norm);
        rule.shrink[j] = norm > 0 ? static_cast<float>(each / norm) : 0.0F;
    }
    return rule;
}

double penalty(const Moment& at, const BatchSums&, double l1, double) {
    return coefficient(at) * l1 / static_cast<double>(at.rows);
}

}  // namespace

const Kind relu = {.name = "relu",
                   .inference = Inference::own,
                   .rule = rule,
                   .penalty = penalty,
                   .lower = lower_thresholds_of_u};

}  // namespace strata::sae
