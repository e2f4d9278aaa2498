#pragma once
// Adaptive masking over any kind: the importance of a latent, from averages over past batches, decides how
// likely it is to be masked in the next.
//
//   statistics of a batch, f the codes without masks, R^(g) with them, n_j the prefixes that contain j:
//     a_j = 1/B sum_b f_bj,  q_j = 1/B sum_b 1[f_bj > 0],  c_j = max(0, 1/B sum_b t_bj)
//     t_bj = -2 f (R^(g) . d_j) + n_j f^2 |d_j|^2   not masked: how much leaving the code out would cost
//     t_bj = -2 f (R^(g) . d_j) - n_j f^2 |d_j|^2   masked: how much putting it in would save
//   averages  new = decay old + (1 - decay) statistic, over 1 - decay^steps when used
//   I_j = sum_i w_i stat_i / mean_j stat_i / sum w,  or  prod_i (stat_i / mean_j stat_i)^(w_i / sum w)
//   theta = mean I + c std I  (population)
//   p_j = 1 - exp(-r rho max(0, theta - I_j) / theta), 0 where theta <= 0 or I_j >= theta

#include "support/reference_forward.h"

namespace strata::reference {

// The three averages, [M] each: magnitude, frequency, contribution.
template <typename T>
struct Atm {
    std::array<std::vector<T>, 3> average;
    std::int64_t steps = 0;
};

// What the importances of a step come to.
template <typename T>
struct AtmState {
    std::vector<T> importance;   // [M]; empty before the first average
    std::vector<T> probability;  // p_j, [M]
    T threshold = 0;             // theta
    T mean_probability = 0;
    T above = 0;  // share of latents with I >= theta
};

template <typename T>
T mean_of(const std::vector<T>& values) {
    T sum = 0;
    for (const T v : values) sum += v;
    return sum / static_cast<T>(values.size());
}

template <typename T>
std::vector<T> importances(const Atm<T>& atm, const AtmRules& rules) {
    if (atm.steps == 0) return {};
    const T correction = static_cast<T>(1 - std::pow(rules.decay, static_cast<double>(atm.steps)));
    const double total = rules.weights[0] + rules.weights[1] + rules.weights[2];
    std::vector<T> importance(atm.average[0].size(), rules.geometric ? 1 : 0);
    for (std::size_t i = 0; i < 3; ++i) {
        std::vector<T> statistic = atm.average[i];
        for (T& v : statistic) v /= correction;
        const T mean = std::max(mean_of(statistic), static_cast<T>(1e-12));
        const auto weight = static_cast<T>(rules.weights[i] / total);
        for (std::size_t j = 0; j < importance.size(); ++j) {
            if (rules.geometric)
                importance[j] *= std::pow(statistic[j] / mean, weight);
            else
                importance[j] += weight * statistic[j] / mean;
        }
    }
    return importance;
}

// At step t, from 0, of the averages after step t - 1.
template <typename T>
AtmState<T> atm_state(const Atm<T>& atm, const AtmRules& rules, std::int64_t t, std::size_t width) {
    AtmState<T> state;
    state.probability.assign(width, 0);
    state.importance = importances(atm, rules);
    if (state.importance.empty()) return state;
    const T mean = mean_of(state.importance);
    T variance = 0;
    for (const T v : state.importance) variance += (v - mean) * (v - mean) / static_cast<T>(width);
    state.threshold = mean + static_cast<T>(rules.c) * std::sqrt(variance);
    double rho = t < rules.start_step ? 0 : 1;
    if (rho > 0 && rules.ramp_steps > 0)
        rho = std::min(1.0,
                       static_cast<double>(t - rules.start_step + 1) / static_cast<double>(rules.ramp_steps));
    for (std::size_t j = 0; j < width; ++j) {
        const T importance = state.importance[j];
        if (importance >= state.threshold) state.above += 1 / static_cast<T>(width);
        if (state.threshold > 0 && importance < state.threshold)
            state.probability[j] = 1 - std::exp(-static_cast<T>(rules.r * rho) *
                                                (state.threshold - importance) / state.threshold);
    }
    state.mean_probability = mean_of(state.probability);
    return state;
}

// Pairs that are not masked, [B, M], from uniform draws: one a latent, or one a row for all latents.
template <typename T>
Mask kept_pairs(const std::vector<T>& probability, const std::vector<double>& draws, std::size_t rows,
                bool by_row) {
    const std::size_t width = probability.size();
    Mask kept(rows * width, 1);
    for (std::size_t i = 0; i < kept.size(); ++i) {
        const std::size_t b = i / width, j = i % width;
        if (probability[j] > 0 && static_cast<T>(draws.at(by_row ? b : j)) < probability[j]) kept[i] = 0;
    }
    return kept;
}

// a, q, c of a batch.
template <typename T>
std::array<std::vector<T>, 3> atm_statistics(const Sae<T>& sae, const StepRules& rules, const Forward<T>& at,
                                             const Mask& kept, std::size_t rows) {
    const std::vector<std::size_t> ends = ends_of(rules, sae.width);
    const T per_row = 1 / static_cast<T>(rows);
    std::array<std::vector<T>, 3> statistics;
    for (auto& s : statistics) s.assign(sae.width, 0);
    for (std::size_t j = 0; j < sae.width; ++j) {
        const std::size_t g = group_of(ends, j);
        const auto prefixes = static_cast<T>(ends.size() - g);
        const T square = dot(sae.decoder(j), sae.decoder(j), sae.n);
        T contribution = 0;
        for (std::size_t b = 0; b < rows; ++b) {
            const std::size_t i = b * sae.width + j;
            if (at.unmasked[i] == 0) continue;
            const T f = at.unmasked_f[i];
            statistics[0][j] += per_row * f;
            statistics[1][j] += per_row;
            contribution += per_row * (-2 * f * dot(&at.pull[g][b * sae.n], sae.decoder(j), sae.n) +
                                       (has(kept, i) ? 1 : -1) * prefixes * f * f * square);
        }
        statistics[2][j] = std::max(contribution, T{0});
    }
    return statistics;
}

template <typename T>
void add_to_averages(Atm<T>& atm, const std::array<std::vector<T>, 3>& statistics, const AtmRules& rules) {
    for (std::size_t i = 0; i < 3; ++i) {
        atm.average[i].resize(statistics[i].size());
        for (std::size_t j = 0; j < statistics[i].size(); ++j)
            atm.average[i][j] = static_cast<T>(rules.decay) * atm.average[i][j] +
                                static_cast<T>(1 - rules.decay) * statistics[i][j];
    }
    ++atm.steps;
}

// Latents that fire again after being dead, or were resampled, begin with the averages' means over the
// others. Where there are no others nothing changes.
template <typename T>
void reset_averages(Atm<T>& atm, const std::vector<std::uint32_t>& latents) {
    for (std::vector<T>& average : atm.average) {
        if (average.size() <= latents.size()) continue;
        T sum = 0;
        for (const T v : average) sum += v;
        for (const std::uint32_t j : latents) sum -= average[j];
        for (const std::uint32_t j : latents)
            average[j] = sum / static_cast<T>(average.size() - latents.size());
    }
}

}  // namespace strata::reference
