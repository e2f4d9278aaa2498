#pragma once
// A step of training as its formulas say it: dense, one loop per sum, in any precision. Slow and obvious;
// what the devices compute is compared with this, and this with finite differences of its own loss.
//
//   z = (x - b_dec) W_enc + b_enc,  f = z where selected, else 0,  x_hat = f W_dec + b_dec
//   loss = 1/B sum_b |x_b - x_hat_b|^2  +  weight * sum_b |e_b - f'_b W_dec|^2
//   e = x - x_hat and weight = coefficient * E|x|^2 / sum_b |e_b - mean e|^2, both constants; f' are the
//   codes of the dead latents' largest pre-activations.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace strata::reference {

// Four tensors: parameters, a gradient, or a moment. W_enc and W_dec are [M, n].
template <typename T>
struct Sae {
    std::size_t n = 0, width = 0;
    std::vector<T> w_enc, w_dec, b_enc, b_dec;

    Sae() = default;
    Sae(std::size_t n_, std::size_t width_)
        : n(n_), width(width_), w_enc(n * width), w_dec(n * width), b_enc(width), b_dec(n) {}

    template <typename U>
    explicit Sae(const Sae<U>& other)
        : n(other.n),
          width(other.width),
          w_enc(other.w_enc.begin(), other.w_enc.end()),
          w_dec(other.w_dec.begin(), other.w_dec.end()),
          b_enc(other.b_enc.begin(), other.b_enc.end()),
          b_dec(other.b_dec.begin(), other.b_dec.end()) {}

    std::vector<T>& tensor(int i) { return i == 0 ? w_enc : i == 1 ? w_dec : i == 2 ? b_enc : b_dec; }
    const std::vector<T>& tensor(int i) const { return const_cast<Sae*>(this)->tensor(i); }
    static constexpr const char* names[] = {"W_enc", "W_dec", "b_enc", "b_dec"};
};

// Which pairs (row, latent) are selected: [B, M].
using Mask = std::vector<char>;

template <typename T>
std::vector<T> pre_activations(const Sae<T>& sae, const std::vector<T>& x, std::size_t rows) {
    std::vector<T> z(rows * sae.width);
    for (std::size_t b = 0; b < rows; ++b)
        for (std::size_t j = 0; j < sae.width; ++j) {
            T sum = 0;
            for (std::size_t c = 0; c < sae.n; ++c)
                sum += (x[b * sae.n + c] - sae.b_dec[c]) * sae.w_enc[j * sae.n + c];
            z[b * sae.width + j] = sum + sae.b_enc[j];
        }
    return z;
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

template <typename T>
T smallest_selected(const std::vector<T>& z, const Mask& mask) {
    T smallest = std::numeric_limits<T>::max();
    for (std::size_t i = 0; i < z.size(); ++i)
        if (mask[i] != 0) smallest = std::min(smallest, z[i]);
    return smallest;
}

// f W_dec for the selected f = z, [B, n]; no bias.
template <typename T>
std::vector<T> decode(const Sae<T>& sae, const std::vector<T>& z, const Mask& mask, std::size_t rows) {
    std::vector<T> out(rows * sae.n);
    for (std::size_t b = 0; b < rows; ++b)
        for (std::size_t j = 0; j < sae.width; ++j) {
            if (mask[b * sae.width + j] == 0) continue;
            for (std::size_t c = 0; c < sae.n; ++c)
                out[b * sae.n + c] += z[b * sae.width + j] * sae.w_dec[j * sae.n + c];
        }
    return out;
}

// x - x_hat, [B, n].
template <typename T>
std::vector<T> error_of(const Sae<T>& sae, const std::vector<T>& x, const std::vector<T>& z, const Mask& mask,
                        std::size_t rows) {
    std::vector<T> error = decode(sae, z, mask, rows);
    for (std::size_t b = 0; b < rows; ++b)
        for (std::size_t c = 0; c < sae.n; ++c)
            error[b * sae.n + c] = x[b * sae.n + c] - sae.b_dec[c] - error[b * sae.n + c];
    return error;
}

template <typename T>
T square_of(const std::vector<T>& values) {
    T sum = 0;
    for (const T v : values) sum += v * v;
    return sum;
}

// What the auxiliary term takes as constant.
template <typename T>
struct Auxiliary {
    Mask mask;
    std::vector<T> target;  // e, [B, n]
    T weight = 0;           // 0: off
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

template <typename T>
T auxiliary_loss(const Sae<T>& sae, const std::vector<T>& z, const Auxiliary<T>& auxiliary,
                 std::size_t rows) {
    if (auxiliary.weight == 0) return 0;
    std::vector<T> missed = decode(sae, z, auxiliary.mask, rows);
    for (std::size_t i = 0; i < missed.size(); ++i) missed[i] -= auxiliary.target[i];
    return auxiliary.weight * square_of(missed);
}

template <typename T>
T loss_of(const Sae<T>& sae, const std::vector<T>& x, const Mask& mask, const Auxiliary<T>& auxiliary,
          std::size_t rows) {
    const std::vector<T> z = pre_activations(sae, x, rows);
    return square_of(error_of(sae, x, z, mask, rows)) / static_cast<T>(rows) +
           auxiliary_loss(sae, z, auxiliary, rows);
}

// The gradient of loss_of, not projected.
template <typename T>
Sae<T> gradient_of(const Sae<T>& sae, const std::vector<T>& x, const Mask& mask,
                   const Auxiliary<T>& auxiliary, std::size_t rows) {
    const std::size_t n = sae.n;
    const std::vector<T> z = pre_activations(sae, x, rows);
    Sae<T> gradient(n, sae.width);
    // `residual` = reconstruction - target.
    const auto add = [&](const Mask& selected, const std::vector<T>& residual, T scale) {
        for (std::size_t b = 0; b < rows; ++b)
            for (std::size_t j = 0; j < sae.width; ++j) {
                if (selected[b * sae.width + j] == 0) continue;
                T g = 0;
                for (std::size_t c = 0; c < n; ++c) g += scale * residual[b * n + c] * sae.w_dec[j * n + c];
                gradient.b_enc[j] += g;
                for (std::size_t c = 0; c < n; ++c) {
                    gradient.w_dec[j * n + c] += scale * z[b * sae.width + j] * residual[b * n + c];
                    gradient.w_enc[j * n + c] += g * (x[b * n + c] - sae.b_dec[c]);
                    gradient.b_dec[c] -= g * sae.w_enc[j * n + c];
                }
            }
    };
    std::vector<T> residual = error_of(sae, x, z, mask, rows);
    for (T& r : residual) r = -r;
    const T scale = T{2} / static_cast<T>(rows);
    add(mask, residual, scale);
    for (std::size_t i = 0; i < residual.size(); ++i) gradient.b_dec[i % n] += scale * residual[i];
    if (auxiliary.weight != 0) {
        std::vector<T> missed = decode(sae, z, auxiliary.mask, rows);
        for (std::size_t i = 0; i < missed.size(); ++i) missed[i] -= auxiliary.target[i];
        add(auxiliary.mask, missed, 2 * auxiliary.weight);
    }
    return gradient;
}

// Takes from every decoder row's gradient its component along the row.
template <typename T>
void project(Sae<T>& gradient, const Sae<T>& sae) {
    for (std::size_t j = 0; j < sae.width; ++j) {
        T along = 0, square = 0;
        for (std::size_t c = 0; c < sae.n; ++c) {
            along += gradient.w_dec[j * sae.n + c] * sae.w_dec[j * sae.n + c];
            square += sae.w_dec[j * sae.n + c] * sae.w_dec[j * sae.n + c];
        }
        if (square == 0) continue;
        for (std::size_t c = 0; c < sae.n; ++c)
            gradient.w_dec[j * sae.n + c] -= along / square * sae.w_dec[j * sae.n + c];
    }
}

template <typename T>
T square_norm(const Sae<T>& t) {
    return square_of(t.w_enc) + square_of(t.w_dec) + square_of(t.b_enc) + square_of(t.b_dec);
}

template <typename T>
void renormalise(Sae<T>& sae) {
    for (std::size_t j = 0; j < sae.width; ++j) {
        T square = 0;
        for (std::size_t c = 0; c < sae.n; ++c) square += sae.w_dec[j * sae.n + c] * sae.w_dec[j * sae.n + c];
        if (square == 0) continue;
        for (std::size_t c = 0; c < sae.n; ++c) sae.w_dec[j * sae.n + c] /= std::sqrt(square);
    }
}

struct AdamRates {
    double lr = 0, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
};

// Step `t` counts from 1; `scale` multiplies the gradient (clipping).
template <typename T>
void adam(Sae<T>& sae, Sae<T>& first, Sae<T>& second, const Sae<T>& gradient, const AdamRates& rates, T scale,
          int t) {
    for (int i = 0; i < 4; ++i)
        for (std::size_t e = 0; e < sae.tensor(i).size(); ++e) {
            const T g = scale * gradient.tensor(i)[e];
            T& m = first.tensor(i)[e];
            T& v = second.tensor(i)[e];
            m = static_cast<T>(rates.beta1) * m + static_cast<T>(1 - rates.beta1) * g;
            v = static_cast<T>(rates.beta2) * v + static_cast<T>(1 - rates.beta2) * g * g;
            const T m_hat = m / static_cast<T>(1 - std::pow(rates.beta1, t));
            const T v_hat = v / static_cast<T>(1 - std::pow(rates.beta2, t));
            sae.tensor(i)[e] -=
                static_cast<T>(rates.lr) * m_hat / (std::sqrt(v_hat) + static_cast<T>(rates.epsilon));
        }
}

// An SAE in training.
template <typename T>
struct Trained {
    Sae<T> sae, first, second;
    std::vector<std::uint64_t> silent;  // rows since a latent last fired
    int steps = 0;

    explicit Trained(Sae<T> start)
        : sae(std::move(start)), first(sae.n, sae.width), second(sae.n, sae.width), silent(sae.width, 0) {}
};

struct StepRules {
    bool batch_rule = true;  // batch_topk; else topk
    double k = 1;
    std::size_t row_cap = 0;  // codes, 0: none
    std::size_t aux_k = 0;
    double aux_coefficient = 0, mean_square = 1;
    std::uint64_t dead_after = 0;
    double clip_norm = 0;
    AdamRates rates;
};

template <typename T>
struct StepResult {
    Mask mask;
    Auxiliary<T> auxiliary;
    std::vector<std::uint32_t> dead;  // before the step
    T squared_error = 0, auxiliary_loss = 0, gradient_norm = 0, threshold = 0;
};

// The latents' largest pre-activations that the auxiliary term uses, its target and its weight.
template <typename T>
Auxiliary<T> freeze_auxiliary(const Sae<T>& sae, const std::vector<T>& x, const std::vector<T>& z,
                              const Mask& mask, const std::vector<std::uint32_t>& dead,
                              const StepRules& rules, std::size_t rows) {
    Auxiliary<T> auxiliary;
    if (dead.empty() || rules.aux_k == 0) return auxiliary;
    auxiliary.target = error_of(sae, x, z, mask, rows);
    auxiliary.mask = select_row_top(z, rows, sae.width, std::min(rules.aux_k, dead.size()), dead);
    const T variance = variance_of(auxiliary.target, rows, sae.n);
    if (variance > 0) auxiliary.weight = static_cast<T>(rules.aux_coefficient * rules.mean_square) / variance;
    return auxiliary;
}

template <typename T>
StepResult<T> step(Trained<T>& t, const std::vector<T>& x, std::size_t rows, const StepRules& rules) {
    StepResult<T> result;
    for (std::size_t j = 0; j < t.sae.width; ++j)
        if (t.silent[j] >= rules.dead_after) result.dead.push_back(static_cast<std::uint32_t>(j));

    const std::vector<T> z = pre_activations(t.sae, x, rows);
    const auto count = static_cast<std::size_t>(std::llround(rules.k * static_cast<double>(rows)));
    result.mask = rules.batch_rule ? select_batch_top(z, rows, t.sae.width, count, rules.row_cap)
                                   : select_row_top(z, rows, t.sae.width, static_cast<std::size_t>(rules.k));
    result.threshold = smallest_selected(z, result.mask);
    result.squared_error = square_of(error_of(t.sae, x, z, result.mask, rows));
    result.auxiliary = freeze_auxiliary(t.sae, x, z, result.mask, result.dead, rules, rows);
    result.auxiliary_loss = auxiliary_loss(t.sae, z, result.auxiliary, rows);
    for (std::size_t j = 0; j < t.sae.width; ++j) {
        t.silent[j] += rows;
        for (std::size_t b = 0; b < rows; ++b)
            if (result.mask[b * t.sae.width + j] != 0) t.silent[j] = 0;
    }

    Sae<T> gradient = gradient_of(t.sae, x, result.mask, result.auxiliary, rows);
    project(gradient, t.sae);
    result.gradient_norm = std::sqrt(square_norm(gradient));
    T scale = 1;
    if (rules.clip_norm > 0 && result.gradient_norm > rules.clip_norm)
        scale = static_cast<T>(rules.clip_norm) / result.gradient_norm;
    adam(t.sae, t.first, t.second, gradient, rules.rates, scale, ++t.steps);
    renormalise(t.sae);
    return result;
}

}  // namespace strata::reference
