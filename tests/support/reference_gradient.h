#pragma once
// Gradients by their formulas (docs/methods.md), at a point. With s = 2/B, G_bj = s R_b^(g) . d_j and g the
// first prefix that contains j, over the pairs that are not masked:
//
//   topk, batch_topk, matryoshka   dL/dz = G where selected
//   relu                           dL/dz = G + l1/B |d_j| where z > 0       (|d_j| = 1 for unit rows)
//   jumprelu                       dL/dz = G where z > theta
//                                  dL/dtheta_j = -theta_j/eps sum_b K G - (c + c_j)/(B eps) sum_b K
//                                    c = l0, or l0 2 (L0/T - 1)/T;  c_j = frequency 2 max(0, p_j - limit)
//   gated                          G where f > 0, H = s (x_hat_gate - y) . d_j + l1/B where pi_gate > 0:
//                                  dL/du = exp(rho) G + H, dL/db_enc = sum_b H, dL/dbeta = sum_b G,
//                                  dL/drho = sum_b G (f - beta)
//   all                            dL/dd_j = s sum_b f_bj R_b^(g)  [+ l1/B sum_b f_bj d_j/|d_j|, free
//   decoder]
//                                  dL/dw_j = sum_b dL/dz_bj xc_b;  dL/db_enc_j = sum_b dL/dz_bj
//                                  dL/db_dec = s sum_b R_b^(1) - sum_bj dL/dz_bj w_j  (last: autoencoder)
//                                  dL/dW_skip = s sum_b x_b^T R_b^(1)
//   auxiliary, its pairs           as a selection with the residual f' W_dec - e and 2 weight for s; its
//   b_dec
//                                  through xc only

#include "support/reference_loss.h"

namespace strata::reference {

namespace detail {

// What goes back through z = xc . w_j + b_enc_j of one pair: `through` to xc . w_j, `bias` to b_enc_j (they
// differ for gated).
template <typename T>
void add_encoder(Sae<T>& gradient, const Sae<T>& sae, const T* xc, bool centred, std::size_t j, T through,
                 T bias) {
    gradient.b_enc[j] += bias;
    for (std::size_t c = 0; c < sae.n; ++c) {
        gradient.w_enc[j * sae.n + c] += through * xc[c];
        if (centred) gradient.b_dec[c] -= through * sae.w_enc[j * sae.n + c];
    }
}

// Of scale/2 sum_b |f W_dec - target|^2 over the pairs of `mask` with f = z, `residual` = f W_dec -
// target; without b_dec's own part.
template <typename T>
void add_selection(Sae<T>& gradient, const Sae<T>& sae, const Batch<T>& batch, const std::vector<T>& xc,
                   const std::vector<T>& z, const Mask& mask, const std::vector<T>& residual, T scale) {
    for (std::size_t i = 0; i < mask.size(); ++i) {
        if (mask[i] == 0) continue;
        const std::size_t b = i / sae.width, j = i % sae.width;
        const T* r = &residual[b * sae.n];
        const T g = scale * dot(r, sae.decoder(j), sae.n);
        add_encoder(gradient, sae, &xc[b * sae.n], !batch.transcodes(), j, g, g);
        for (std::size_t c = 0; c < sae.n; ++c) gradient.w_dec[j * sae.n + c] += scale * z[i] * r[c];
    }
}

}  // namespace detail

// Of losses_of(...).total() at the point; not projected.
template <typename T>
Sae<T> gradient_of(const Batch<T>& batch, const StepRules& rules, const Point<T>& point) {
    const Sae<T>& sae = point.sae;
    const Forward<T>& at = point.forward;
    const std::size_t n = sae.n, width = sae.width, rows = batch.rows;
    const std::vector<std::size_t> ends = ends_of(rules, width);
    const std::vector<T> theta = thetas(sae, rules);
    const T per_row = 1 / static_cast<T>(rows), s = 2 * per_row;
    const auto l1 = static_cast<T>(point.coefficients.l1);
    const auto eps = static_cast<T>(point.coefficients.bandwidth);
    Sae<T> gradient = zeros_like(sae);

    auto sparsity = static_cast<T>(point.coefficients.l0);
    if (rules.l0_target) {
        const auto target = static_cast<T>(*rules.l0_target);
        sparsity *= 2 * (at.l0 / target - 1) / target;
    }
    std::vector<T> gate_residual;  // x_hat_gate - y
    if (rules.kind == Kind::gated) {
        std::vector<T> gate(at.z.size());
        for (std::size_t i = 0; i < gate.size(); ++i)
            if (at.gate[i] != 0) gate[i] = at.z[i];
        gate_residual = residual_of(sae, batch, gate);
    }

    for (std::size_t b = 0; b < rows; ++b)
        for (std::size_t j = 0; j < width; ++j) {
            const std::size_t i = b * width + j;
            const T* pull = &at.pull[group_of(ends, j)][b * n];
            const T g = s * dot(pull, sae.decoder(j), n);
            const T norm = rules.unit_decoder ? 1 : norm_of(sae.decoder(j), n);
            const bool selected = at.selected[i] != 0;
            T through = 0, bias = 0;
            switch (rules.kind) {
                case Kind::topk:
                case Kind::batch_topk:
                case Kind::matryoshka:
                    if (selected) through = bias = g;
                    break;
                case Kind::relu:
                    if (selected) through = bias = g + l1 * per_row * norm;
                    break;
                case Kind::jumprelu:
                    if (selected) through = bias = g;
                    if (at.window[i] != 0) {
                        const T above =
                            std::max(at.frequency[j] - static_cast<T>(rules.frequency_limit), T{0});
                        const T often = static_cast<T>(point.coefficients.frequency) * 2 * above;
                        gradient.latent[j] -= theta[j] / eps * g + (sparsity + often) * per_row / eps;
                    }
                    break;
                case Kind::gated:
                    if (selected) {
                        through = std::exp(sae.latent[j]) * g;
                        gradient.latent[j] += g * (at.f[i] - sae.latent[width + j]);
                        gradient.latent[width + j] += g;
                    }
                    if (at.gate[i] != 0) {
                        bias = s * dot(&gate_residual[b * n], sae.decoder(j), n) + l1 * per_row;
                        through += bias;
                    }
                    break;
            }
            detail::add_encoder(gradient, sae, &at.xc[b * n], !batch.transcodes(), j, through, bias);
            if (!selected) continue;
            for (std::size_t c = 0; c < n; ++c) {
                gradient.w_dec[j * n + c] += s * at.f[i] * pull[c];
                if (rules.kind == Kind::relu && !rules.unit_decoder && norm > 0)
                    gradient.w_dec[j * n + c] += l1 * per_row * at.f[i] * sae.w_dec[j * n + c] / norm;
            }
        }
    if (rules.kind == Kind::jumprelu && rules.log_theta)
        for (std::size_t j = 0; j < gradient.latent.size(); ++j) gradient.latent[j] *= theta[j];

    for (std::size_t b = 0; b < rows; ++b)
        for (std::size_t c = 0; c < n; ++c) {
            const T r = s * at.pull[0][b * n + c];
            gradient.b_dec[c] += r;
            if (!sae.skip.empty())
                for (std::size_t in = 0; in < n; ++in) gradient.skip[in * n + c] += batch.x[b * n + in] * r;
        }

    if (point.auxiliary.weight != 0) {
        std::vector<T> missed = decode(sae, at.z, point.auxiliary.mask, rows);
        for (std::size_t i = 0; i < missed.size(); ++i) missed[i] -= point.auxiliary.target[i];
        detail::add_selection(gradient, sae, batch, at.xc, at.z, point.auxiliary.mask, missed,
                              2 * point.auxiliary.weight);
    }
    return gradient;
}

// The gradient of loss_of, not projected.
template <typename T>
Sae<T> gradient_of(const Sae<T>& sae, const std::vector<T>& x, const Mask& mask,
                   const Auxiliary<T>& auxiliary, std::size_t rows) {
    const Batch<T> batch{rows, x, {}};
    const std::vector<T> xc = centred(sae, batch);
    const std::vector<T> z = pre_activations(sae, batch);
    const T scale = T{2} / static_cast<T>(rows);
    Sae<T> gradient = zeros_like(sae);
    std::vector<T> residual = error_of(sae, x, z, mask, rows);
    for (T& r : residual) r = -r;
    detail::add_selection(gradient, sae, batch, xc, z, mask, residual, scale);
    for (std::size_t i = 0; i < residual.size(); ++i) gradient.b_dec[i % sae.n] += scale * residual[i];
    if (auxiliary.weight != 0) {
        std::vector<T> missed = decode(sae, z, auxiliary.mask, rows);
        for (std::size_t i = 0; i < missed.size(); ++i) missed[i] -= auxiliary.target[i];
        detail::add_selection(gradient, sae, batch, xc, z, auxiliary.mask, missed, 2 * auxiliary.weight);
    }
    return gradient;
}

// Takes from every decoder row's gradient its component along the row.
template <typename T>
void project(Sae<T>& gradient, const Sae<T>& sae) {
    for (std::size_t j = 0; j < sae.width; ++j) {
        const T square = dot(sae.decoder(j), sae.decoder(j), sae.n);
        if (square == 0) continue;
        const T along = dot(gradient.decoder(j), sae.decoder(j), sae.n) / square;
        for (std::size_t c = 0; c < sae.n; ++c)
            gradient.w_dec[j * sae.n + c] -= along * sae.w_dec[j * sae.n + c];
    }
}

}  // namespace strata::reference
