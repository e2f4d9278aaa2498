#pragma once
// Optimisers. Step t counts from 1; `scale` multiplies the gradient g (clipping); lr is the rate of the
// step, with its warm-up in it.
//
//   adam                 m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//                        p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
//
// Schedule-free (Defazio et al., arXiv 2405.15682) keeps three sequences: z takes the steps, x is their
// average, y between them is where the gradient is taken; y are the parameters of training, x those that are
// saved and used. With w_t = (largest lr so far)^2 and c = w_t / sum of w so far (0 where that sum is 0):
//
//   adam_schedule_free   v = beta2 v + (1 - beta2) g^2;  u = g / (sqrt(v / (1 - beta2^t)) + epsilon)
//   signum               u = sign(g), sign(0) = 0
//   both                 z' = z - lr u
//                        x' = (1 - c) x + c z'
//                        y' = (1 - beta1) z' + beta1 x'
//
// Only y and z are stored, x = y + (1 - 1/beta1)(z - y). Written for y alone the last two lines are
//                        y' = y + c (z - y) - lr (1 - beta1 (1 - c)) u.
// z starts at y. With unit decoder rows, the rows of y' and of z' are each scaled to unit length after the
// step, and theta of each held at its floor; x is whatever these two then give, and the rows of x are scaled
// to unit length where x is saved or used.

#include "support/reference_parameters.h"

namespace strata::reference {

template <typename T>
void adam(Sae<T>& sae, Sae<T>& first, Sae<T>& second, const Sae<T>& gradient, const AdamRates& rates, T scale,
          int t) {
    for (int i = 0; i < Sae<T>::tensors; ++i)
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

// The weights of the average.
struct Averaging {
    double largest_lr = 0, weights = 0;
    // c of a step at this rate.
    double next(double lr) {
        largest_lr = std::max(largest_lr, lr);
        weights += largest_lr * largest_lr;
        return weights == 0 ? 0 : largest_lr * largest_lr / weights;
    }
};

// `c` from Averaging::next. `second` is not used by the sign rule.
template <typename T>
void schedule_free(Sae<T>& y, Sae<T>& z, Sae<T>& second, const Sae<T>& gradient, const AdamRates& rates,
                   T scale, int t, double c, bool sign) {
    const auto lr = static_cast<T>(rates.lr);
    const auto beta = static_cast<T>(rates.beta1);
    for (int i = 0; i < Sae<T>::tensors; ++i)
        for (std::size_t e = 0; e < y.tensor(i).size(); ++e) {
            const T g = scale * gradient.tensor(i)[e];
            T u = static_cast<T>(g > 0) - static_cast<T>(g < 0);
            if (!sign) {
                T& v = second.tensor(i)[e];
                v = static_cast<T>(rates.beta2) * v + static_cast<T>(1 - rates.beta2) * g * g;
                u = g / (std::sqrt(v / static_cast<T>(1 - std::pow(rates.beta2, t))) +
                         static_cast<T>(rates.epsilon));
            }
            T& at = y.tensor(i)[e];
            T& base = z.tensor(i)[e];
            const T average = at + (1 - 1 / beta) * (base - at);
            base -= lr * u;
            at = (1 - beta) * base + beta * ((1 - static_cast<T>(c)) * average + static_cast<T>(c) * base);
        }
}

// Unit rows; thresholds of latents that were dead fall in a step of so many rows; theta has a floor.
template <typename T>
void constrain(Sae<T>& sae, const StepRules& rules, const std::vector<std::uint32_t>& dead = {},
               std::size_t rows = 0) {
    if (rules.unit_decoder) renormalise(sae);
    for (const std::uint32_t j : dead) {
        const T factor = std::pow(T(2), -static_cast<T>(rules.threshold_fall) * static_cast<T>(rows) /
                                            static_cast<T>(rules.dead_after));
        if (threshold_is_bias(rules.kind) && sae.b_enc[j] < 0) sae.b_enc[j] *= factor;
        if (rules.kind != Kind::jumprelu) continue;
        sae.latent[j] = rules.log_theta ? sae.latent[j] + std::log(factor) : sae.latent[j] * factor;
    }
    if (rules.kind != Kind::jumprelu || rules.log_theta) return;
    const auto floor = static_cast<T>(std::sqrt(rules.mean_square) * theta_floor);
    for (T& theta : sae.latent) theta = std::max(theta, floor);
}

// x of schedule-free, as it is saved.
template <typename T>
Sae<T> averaged(const Sae<T>& y, const Sae<T>& z, const StepRules& rules) {
    Sae<T> x = y;
    const T back = 1 - 1 / static_cast<T>(rules.rates.beta1);
    for (int i = 0; i < Sae<T>::tensors; ++i)
        for (std::size_t e = 0; e < x.tensor(i).size(); ++e)
            x.tensor(i)[e] += back * (z.tensor(i)[e] - y.tensor(i)[e]);
    constrain(x, rules);
    return x;
}

}  // namespace strata::reference
