#pragma once
// The forward pass of every kind, with masks, prefixes, target and skip. Dense, one loop per sum.
//
//   xc = x - b_dec (autoencoder), x (transcoder)
//   z  = xc W_enc + b_enc
//   f  = rule(z)
//   x_hat = f W_dec + b_dec [+ x W_skip]
//
//   relu      f = max(z, 0)
//   topk      f = z for the k largest positive z of a row
//   batch_topk, matryoshka
//             f = z for the round(k B) largest positive z of the batch
//   jumprelu  f = z where z > theta
//   gated     u = xc . w_j;  pi_gate = u + b_enc_j = z;  pi_mag = exp(rho_j) u + beta_j
//             f = max(pi_mag, 0) where pi_gate > 0

#include "support/reference_parameters.h"

namespace strata::reference {

// Which pairs (row, latent): [B, M]. Where a mask is optional, an empty one means all pairs.
using Mask = std::vector<char>;

inline bool has(const Mask& mask, std::size_t pair) {
    return mask.empty() || mask[pair] != 0;
}

template <typename T>
std::vector<T> centred(const Sae<T>& sae, const Batch<T>& batch) {
    std::vector<T> xc = batch.x;
    if (!batch.transcodes())
        for (std::size_t i = 0; i < xc.size(); ++i) xc[i] -= sae.b_dec[i % sae.n];
    return xc;
}

template <typename T>
std::vector<T> pre_activations(const Sae<T>& sae, const Batch<T>& batch) {
    const std::vector<T> xc = centred(sae, batch);
    std::vector<T> z(batch.rows * sae.width);
    for (std::size_t b = 0; b < batch.rows; ++b)
        for (std::size_t j = 0; j < sae.width; ++j)
            z[b * sae.width + j] = dot(&xc[b * sae.n], sae.encoder(j), sae.n) + sae.b_enc[j];
    return z;
}

template <typename T>
std::vector<T> pre_activations(const Sae<T>& sae, const std::vector<T>& x, std::size_t rows) {
    return pre_activations(sae, Batch<T>{rows, x, {}});
}

// The `k` largest positive values of every row, among the latents `allowed` (none given: all); ties to the
// lower latent.
template <typename T>
Mask select_row_top(const std::vector<T>& z, std::size_t rows, std::size_t width, std::size_t k,
                    const std::vector<std::uint32_t>& allowed = {}) {
    Mask mask(rows * width, 0);
    for (std::size_t b = 0; b < rows; ++b) {
        std::vector<std::size_t> order;
        for (std::size_t j = 0; j < width; ++j)
            if (z[b * width + j] > 0 &&
                (allowed.empty() ||
                 std::ranges::find(allowed, static_cast<std::uint32_t>(j)) != allowed.end()))
                order.push_back(j);
        std::ranges::stable_sort(
            order, [&](std::size_t i, std::size_t j) { return z[b * width + i] > z[b * width + j]; });
        for (std::size_t i = 0; i < std::min(k, order.size()); ++i) mask[b * width + order[i]] = 1;
    }
    return mask;
}

// The `count` largest positive values of the batch, ties to the lower row, then the lower latent. With cap >
// 0 only the `cap` largest of each row compete.
template <typename T>
Mask select_batch_top(const std::vector<T>& z, std::size_t rows, std::size_t width, std::size_t count,
                      std::size_t cap = 0) {
    const Mask competes = select_row_top(z, rows, width, cap == 0 ? width : cap);
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < competes.size(); ++i)
        if (competes[i] != 0) order.push_back(i);
    std::ranges::stable_sort(order, [&](std::size_t i, std::size_t j) { return z[i] > z[j]; });
    Mask mask(rows * width, 0);
    for (std::size_t i = 0; i < std::min(count, order.size()); ++i) mask[order[i]] = 1;
    return mask;
}

// The rule of the batch within each rank's rows (threshold_scope: local).
template <typename T>
Mask select_rank_top(const std::vector<T>& z, std::size_t width, const StepRules& rules) {
    Mask mask;
    auto from = z.begin();
    for (const std::size_t rows : rules.rank_rows) {
        const std::vector<T> mine(from, from + static_cast<std::ptrdiff_t>(rows * width));
        const auto count = static_cast<std::size_t>(std::llround(rules.k * static_cast<double>(rows)));
        const Mask part = select_batch_top(mine, rows, width, count);
        mask.insert(mask.end(), part.begin(), part.end());
        from += static_cast<std::ptrdiff_t>(rows * width);
    }
    return mask;
}

template <typename T>
T smallest_selected(const std::vector<T>& z, const Mask& mask) {
    T smallest = std::numeric_limits<T>::max();
    for (std::size_t i = 0; i < z.size(); ++i)
        if (mask[i] != 0) smallest = std::min(smallest, z[i]);
    return smallest;
}

// The selection of a kind that selects, among the pairs `kept`. The cap of a row counts masked pairs too.
template <typename T>
Mask select(const std::vector<T>& z, std::size_t rows, std::size_t width, const StepRules& rules,
            const Mask& kept) {
    std::vector<T> competing = z;
    const Mask within = rules.kind == Kind::topk || rules.row_cap == 0
                            ? Mask{}
                            : select_row_top(z, rows, width, rules.row_cap);
    for (std::size_t i = 0; i < z.size(); ++i)
        if (!has(kept, i) || !has(within, i)) competing[i] = 0;  // not positive: never selected
    if (rules.kind == Kind::topk)
        return select_row_top(competing, rows, width, static_cast<std::size_t>(rules.k));
    if (!rules.rank_rows.empty()) return select_rank_top(competing, width, rules);
    const auto count = static_cast<std::size_t>(std::llround(rules.k * static_cast<double>(rows)));
    return select_batch_top(competing, rows, width, count);
}

// f W_dec for the pairs of `mask`, [B, n]; no bias. Only latents before `end`.
template <typename T>
std::vector<T> decode(const Sae<T>& sae, const std::vector<T>& f, const Mask& mask, std::size_t rows,
                      std::size_t end = std::numeric_limits<std::size_t>::max()) {
    std::vector<T> out(rows * sae.n);
    for (std::size_t b = 0; b < rows; ++b)
        for (std::size_t j = 0; j < std::min(end, sae.width); ++j) {
            if (!has(mask, b * sae.width + j)) continue;
            for (std::size_t c = 0; c < sae.n; ++c)
                out[b * sae.n + c] += f[b * sae.width + j] * sae.w_dec[j * sae.n + c];
        }
    return out;
}

// b_dec [+ x W_skip]: what x_hat has without any code, [B, n].
template <typename T>
std::vector<T> without_codes(const Sae<T>& sae, const Batch<T>& batch) {
    std::vector<T> out(batch.rows * sae.n);
    for (std::size_t b = 0; b < batch.rows; ++b)
        for (std::size_t c = 0; c < sae.n; ++c) {
            T& sum = out[b * sae.n + c];
            sum = sae.b_dec[c];
            if (!sae.skip.empty())
                for (std::size_t i = 0; i < sae.n; ++i)
                    sum += batch.x[b * sae.n + i] * sae.skip[i * sae.n + c];
        }
    return out;
}

// f W_dec + b_dec [+ x W_skip] - y with the latents before `end`, [B, n].
template <typename T>
std::vector<T> residual_of(const Sae<T>& sae, const Batch<T>& batch, const std::vector<T>& f,
                           std::size_t end = std::numeric_limits<std::size_t>::max()) {
    std::vector<T> r = decode(sae, f, {}, batch.rows, end);
    const std::vector<T> rest = without_codes(sae, batch);
    for (std::size_t i = 0; i < r.size(); ++i) r[i] += rest[i] - batch.y()[i];
    return r;
}

// r^(g) for every prefix, [G][B, n].
template <typename T>
std::vector<std::vector<T>> residuals_of(const Sae<T>& sae, const Batch<T>& batch, const StepRules& rules,
                                         const std::vector<T>& f) {
    std::vector<std::vector<T>> all;
    for (const std::size_t end : ends_of(rules, sae.width)) all.push_back(residual_of(sae, batch, f, end));
    return all;
}

// x - x_hat, [B, n], of an autoencoder whose codes are z where selected.
template <typename T>
std::vector<T> error_of(const Sae<T>& sae, const std::vector<T>& x, const std::vector<T>& z, const Mask& mask,
                        std::size_t rows) {
    std::vector<T> error = decode(sae, z, mask, rows);
    for (std::size_t i = 0; i < error.size(); ++i) error[i] = x[i] - sae.b_dec[i % sae.n] - error[i];
    return error;
}

template <typename T>
struct Forward {
    std::vector<T> xc;                     // [B, n]
    std::vector<T> z;                      // [B, M]; gated: pi_gate
    std::vector<T> magnitude;              // gated: pi_mag, [B, M]; else empty
    Mask unmasked;                         // pairs with a code by the kind's rule, no masks
    Mask selected;                         // pairs with a code, f > 0
    Mask gate;                             // gated: pi_gate > 0 and not masked; else empty
    Mask window;                           // jumprelu: |z - theta| < eps / 2, z > 0, not masked; else empty
    std::vector<T> unmasked_f, f;          // [B, M], 0 elsewhere
    std::vector<std::vector<T>> residual;  // r^(g)
    std::vector<std::vector<T>> pull;      // R^(g) = sum of r^(m) over m >= g
    T l0 = 0;                              // codes per row
    std::vector<T> frequency;              // p_j, [M]
};

// `kept` are the pairs that are not masked.
template <typename T>
Forward<T> forward(const Sae<T>& sae, const Batch<T>& batch, const StepRules& rules, const Mask& kept = {}) {
    const std::size_t rows = batch.rows;
    const std::size_t pairs = rows * sae.width;
    Forward<T> to;
    to.xc = centred(sae, batch);
    to.z = pre_activations(sae, batch);
    std::vector<T> value = to.z;  // of a code, where there is one
    to.unmasked.assign(pairs, 0);
    to.selected.assign(pairs, 0);

    if (selects(rules.kind)) {
        to.unmasked = select(to.z, rows, sae.width, rules, {});
        to.selected = to.unmasked;
        if (!kept.empty() && rules.atm.value_or(AtmRules{}).before_selection)
            to.selected = select(to.z, rows, sae.width, rules, kept);
    }
    if (rules.kind == Kind::relu)
        for (std::size_t i = 0; i < pairs; ++i) to.unmasked[i] = to.selected[i] = to.z[i] > 0;
    if (rules.kind == Kind::jumprelu) {
        const std::vector<T> theta = thetas(sae, rules);
        const T half = static_cast<T>(std::sqrt(rules.mean_square) * rules.bandwidth) / 2;
        to.window.assign(pairs, 0);
        for (std::size_t i = 0; i < pairs; ++i) {
            const T at = theta[i % sae.width];
            to.unmasked[i] = to.selected[i] = to.z[i] > at;
            to.window[i] = std::abs(to.z[i] - at) < half && to.z[i] > 0 && has(kept, i);
        }
    }
    if (rules.kind == Kind::gated) {
        to.gate.assign(pairs, 0);
        for (std::size_t i = 0; i < pairs; ++i) {
            const std::size_t j = i % sae.width;
            value[i] = std::exp(sae.latent[j]) * (to.z[i] - sae.b_enc[j]) + sae.latent[sae.width + j];
            to.unmasked[i] = to.selected[i] = to.z[i] > 0 && value[i] > 0;
            to.gate[i] = to.z[i] > 0 && has(kept, i);
        }
        to.magnitude = value;
    }

    to.f.assign(pairs, 0);
    to.unmasked_f.assign(pairs, 0);
    to.frequency.assign(sae.width, 0);
    for (std::size_t i = 0; i < pairs; ++i) {
        if (!has(kept, i)) to.selected[i] = 0;
        if (to.unmasked[i] != 0) to.unmasked_f[i] = value[i];
        if (to.selected[i] == 0) continue;
        to.f[i] = value[i];
        to.l0 += 1 / static_cast<T>(rows);
        to.frequency[i % sae.width] += 1 / static_cast<T>(rows);
    }
    to.residual = residuals_of(sae, batch, rules, to.f);
    to.pull = to.residual;
    for (std::size_t g = to.pull.size() - 1; g > 0; --g)
        for (std::size_t i = 0; i < to.pull[g].size(); ++i) to.pull[g - 1][i] += to.pull[g][i];
    return to;
}

}  // namespace strata::reference
