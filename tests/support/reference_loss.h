#pragma once
// The losses by name, as functions of the parameters with everything held constant that training holds
// constant. At the point where it is held they are the losses of the step, and their derivatives there are
// the gradients that training takes; central differences of them check every formula.
//
// What is held, and what stands in for the steps that have no derivative:
//
//   topk, batch_topk, matryoshka   which pairs are selected.
//   auxiliary loss                 its pairs, its target e, its weight.
//   gated, third term              W_dec, b_dec and W_skip of that term (not b_dec inside xc).
//   jumprelu                       Let z0, theta0 be the values at the point and
//                                    ramp(u) = min(1, max(0, u / eps + 1/2)),
//                                  whose derivative is the kernel K(u / eps) / eps, a box of width eps. With
//                                    m(theta) = ramp(z0 - theta) - ramp(z0 - theta0) for z0 > 0, else 0,
//                                  the code and the count of a pair are
//                                    f = z 1[z > theta0] + theta0 m(theta)
//                                    H = 1[z0 > theta0] + m(theta):
//                                  the code jumps by theta0 where the threshold passes z, smoothed over the
//                                  kernel's width. f moves with z by the first term only, H not at all. L0
//                                  and p_j are means of H, so that they have their true values at the point
//                                  and the smoothed slope.

#include "support/reference_forward.h"

namespace strata::reference {

// What the auxiliary term takes as constant.
template <typename T>
struct Auxiliary {
    Mask mask;
    std::vector<T> target;  // e = y - x_hat, [B, n]
    T weight = 0;           // coefficient E|x|^2 / sum_b |e_b - mean e|^2; 0: off
};

// sum_b |e_b - mean e|^2
template <typename T>
T variance_of(const std::vector<T>& error, std::size_t rows, std::size_t n) {
    T sum = 0;
    for (std::size_t c = 0; c < n; ++c) {
        T mean = 0;
        for (std::size_t b = 0; b < rows; ++b) mean += error[b * n + c] / static_cast<T>(rows);
        for (std::size_t b = 0; b < rows; ++b) sum += (error[b * n + c] - mean) * (error[b * n + c] - mean);
    }
    return sum;
}

// `error` = y - x_hat. Codes of the term are z of the dead latents' largest positive pre-activations; masks
// do not touch it. Off where the error's variance is below 1e-5 of its square.
template <typename T>
Auxiliary<T> freeze_auxiliary(std::vector<T> error, const std::vector<T>& z,
                              const std::vector<std::uint32_t>& dead, const StepRules& rules,
                              std::size_t rows, std::size_t n) {
    Auxiliary<T> auxiliary;
    if (dead.empty() || rules.aux_k == 0) return auxiliary;
    auxiliary.mask = select_row_top(z, rows, z.size() / rows, std::min(rules.aux_k, dead.size()), dead);
    const T variance = variance_of(error, rows, n);
    if (variance > static_cast<T>(1e-5) * square_of(error))
        auxiliary.weight = static_cast<T>(rules.aux_coefficient * rules.mean_square) / variance;
    auxiliary.target = std::move(error);
    return auxiliary;
}

template <typename T>
Auxiliary<T> freeze_auxiliary(const Sae<T>& sae, const std::vector<T>& x, const std::vector<T>& z,
                              const Mask& mask, const std::vector<std::uint32_t>& dead,
                              const StepRules& rules, std::size_t rows) {
    return freeze_auxiliary(error_of(sae, x, z, mask, rows), z, dead, rules, rows, sae.n);
}

template <typename T>
T auxiliary_loss(const Sae<T>& sae, const std::vector<T>& z, const Auxiliary<T>& auxiliary,
                 std::size_t rows) {
    if (auxiliary.weight == 0) return 0;
    std::vector<T> missed = decode(sae, z, auxiliary.mask, rows);
    for (std::size_t i = 0; i < missed.size(); ++i) missed[i] -= auxiliary.target[i];
    return auxiliary.weight * square_of(missed);
}

// Coefficients at step t, from 0, in the unit of the rows.
struct Coefficients {
    double l1 = 0, l0 = 0, frequency = 0, bandwidth = 0;
};

inline Coefficients coefficients_at(const StepRules& rules, std::int64_t t) {
    const double ramp =
        rules.penalty_warmup == 0
            ? 1
            : std::min(1.0, static_cast<double>(t + 1) / static_cast<double>(rules.penalty_warmup));
    const double q = std::sqrt(rules.mean_square);
    const double l0 = rules.l0_target && rules.l0 == 0 ? 1 : rules.l0;
    return {.l1 = q * rules.l1 * ramp,
            .l0 = q * q * l0 * ramp,
            .frequency = q * q * rules.frequency * ramp,
            .bandwidth = q * rules.bandwidth};
}

// The point where the gradient is taken: all that is held.
template <typename T>
struct Point {
    Sae<T> sae;
    Mask kept;  // pairs that are not masked; empty: all
    Forward<T> forward;
    Auxiliary<T> auxiliary;
    Coefficients coefficients;
};

// `dead` are the latents of the auxiliary term.
template <typename T>
Point<T> point_at(const Sae<T>& sae, const Batch<T>& batch, const StepRules& rules, std::int64_t t,
                  const Mask& kept = {}, const std::vector<std::uint32_t>& dead = {}) {
    Point<T> point;
    point.sae = sae;
    point.kept = kept;
    point.forward = forward(sae, batch, rules, kept);
    std::vector<T> error = point.forward.residual.back();
    for (T& e : error) e = -e;
    point.auxiliary = freeze_auxiliary(std::move(error), point.forward.z, dead, rules, batch.rows, sae.n);
    point.coefficients = coefficients_at(rules, t);
    return point;
}

template <typename T>
struct Losses {
    T reconstruction = 0;  // 1/B sum_b |r_b|^2 of the whole width
    T prefixes = 0;        // the same, summed over the prefixes; the whole width is one of them
    T penalty = 0;         // l1 or l0
    T frequency = 0;
    T gate = 0;  // gated: the reconstruction from the gates through the frozen decoder
    T auxiliary = 0;
    T total() const { return prefixes + penalty + frequency + gate + auxiliary; }
};

namespace detail {

template <typename T>
T ramp(T u, T width) {
    return std::clamp(u / width + T{1} / 2, T{0}, T{1});
}

// m(theta) for every pair, [B, M].
template <typename T>
std::vector<T> smoothed_change(const Sae<T>& sae, const StepRules& rules, const Point<T>& point) {
    const std::vector<T> theta = thetas(sae, rules), theta0 = thetas(point.sae, rules);
    const std::vector<T>& z0 = point.forward.z;
    const T width = static_cast<T>(point.coefficients.bandwidth);
    std::vector<T> change(z0.size());
    for (std::size_t i = 0; i < z0.size(); ++i) {
        const std::size_t j = i % sae.width;
        if (z0[i] > 0 && has(point.kept, i))
            change[i] = ramp(z0[i] - theta[j], width) - ramp(z0[i] - theta0[j], width);
    }
    return change;
}

template <typename T>
T sum_of_squares_per_row(const std::vector<T>& values, std::size_t rows) {
    return square_of(values) / static_cast<T>(rows);
}

}  // namespace detail

template <typename T>
Losses<T> losses_of(const Sae<T>& sae, const Batch<T>& batch, const StepRules& rules, const Point<T>& point) {
    const std::size_t rows = batch.rows;
    const T per_row = 1 / static_cast<T>(rows);
    const std::vector<T> z = pre_activations(sae, batch);
    const std::size_t pairs = z.size();
    std::vector<T> f(pairs);
    std::vector<T> gate(pairs);    // gated: max(pi_gate, 0)
    std::vector<T> change(pairs);  // jumprelu: m(theta)
    if (rules.kind == Kind::jumprelu) change = detail::smoothed_change(sae, rules, point);
    const std::vector<T> theta0 = thetas(point.sae, rules);
    for (std::size_t i = 0; i < pairs; ++i) {
        const std::size_t j = i % sae.width;
        if (selects(rules.kind) && point.forward.selected[i] != 0) f[i] = z[i];
        if (selects(rules.kind) || !has(point.kept, i)) continue;
        if (rules.kind == Kind::relu) f[i] = std::max(z[i], T{0});
        if (rules.kind == Kind::jumprelu) f[i] = (z[i] > theta0[j] ? z[i] : 0) + theta0[j] * change[i];
        if (rules.kind == Kind::gated && z[i] > 0) {
            gate[i] = z[i];
            f[i] =
                std::max(std::exp(sae.latent[j]) * (z[i] - sae.b_enc[j]) + sae.latent[sae.width + j], T{0});
        }
    }

    Losses<T> losses;
    for (const std::vector<T>& r : residuals_of(sae, batch, rules, f)) {
        losses.reconstruction = detail::sum_of_squares_per_row(r, rows);
        losses.prefixes += losses.reconstruction;
    }
    losses.auxiliary = auxiliary_loss(sae, z, point.auxiliary, rows);

    const auto l1 = static_cast<T>(point.coefficients.l1);
    if (rules.kind == Kind::relu)
        for (std::size_t i = 0; i < pairs; ++i)
            losses.penalty +=
                l1 * per_row * f[i] * (rules.unit_decoder ? 1 : norm_of(sae.decoder(i % sae.width), sae.n));
    if (rules.kind == Kind::gated) {
        for (std::size_t i = 0; i < pairs; ++i) losses.penalty += l1 * per_row * gate[i];
        losses.gate = detail::sum_of_squares_per_row(residual_of(point.sae, batch, gate), rows);
    }
    if (rules.kind == Kind::jumprelu) {
        T l0 = point.forward.l0;
        std::vector<T> p = point.forward.frequency;
        for (std::size_t i = 0; i < pairs; ++i) {
            l0 += per_row * change[i];
            p[i % sae.width] += per_row * change[i];
        }
        losses.penalty = static_cast<T>(point.coefficients.l0) * l0;
        if (rules.l0_target) {
            const T off = l0 / static_cast<T>(*rules.l0_target) - 1;
            losses.penalty = static_cast<T>(point.coefficients.l0) * off * off;
        }
        for (const T share : p) {
            const T above = std::max(share - static_cast<T>(rules.frequency_limit), T{0});
            losses.frequency += static_cast<T>(point.coefficients.frequency) * above * above;
        }
    }
    return losses;
}

// An autoencoder whose codes are z where selected: the loss that gradient_of with the same arguments
// differentiates.
template <typename T>
T loss_of(const Sae<T>& sae, const std::vector<T>& x, const Mask& mask, const Auxiliary<T>& auxiliary,
          std::size_t rows) {
    const std::vector<T> z = pre_activations(sae, x, rows);
    return square_of(error_of(sae, x, z, mask, rows)) / static_cast<T>(rows) +
           auxiliary_loss(sae, z, auxiliary, rows);
}

}  // namespace strata::reference
