#pragma once
// A step of training: gradients (decoder rows projected when unit), clipping on the norm of all tensors,
// optimiser, unit rows and floors, resampling.

#include "support/reference_atm.h"
#include "support/reference_gradient.h"
#include "support/reference_optimiser.h"

namespace strata::reference {

// An SAE in training.
template <typename T>
struct Trained {
    Sae<T> sae;                         // schedule-free: y
    Sae<T> first;                       // adam: m; schedule-free: z
    Sae<T> second;                      // v
    std::vector<std::uint64_t> silent;  // rows since a latent last fired
    int steps = 0;
    Averaging averaging;
    Atm<T> atm;

    explicit Trained(Sae<T> start, Optimiser optimiser = Optimiser::adam)
        : sae(std::move(start)),
          first(optimiser == Optimiser::adam ? zeros_like(sae) : sae),
          second(zeros_like(sae)),
          silent(sae.width, 0) {}
};

// A latent that started again from a row of the batch.
struct Resampled {
    std::uint32_t latent = 0, row = 0;
    bool operator==(const Resampled&) const = default;
};

template <typename T>
struct StepResult {
    Mask mask;           // pairs with a code, masks applied
    Mask unmasked;       // by the rule without masks
    Mask kept;           // pairs that are not masked; empty: all
    Forward<T> forward;  // everything of the forward pass: z, f, windows, residuals
    Losses<T> losses;
    Auxiliary<T> auxiliary;
    std::vector<std::uint32_t> dead;  // before the step
    T squared_error = 0;              // sum_b |r_b|^2 of the whole width
    T auxiliary_loss = 0;
    T l0 = 0, l1 = 0;  // per row, of the codes with masks
    T threshold = 0;   // the smallest value selected, masks applied; without codes the largest float
    T unmasked_threshold = 0;
    Sae<T> gradient;      // projected, not clipped
    T gradient_norm = 0;  // of it
    AtmState<T> atm;      // by which this step was masked
    T masked_share = 0;   // of the pairs of the unmasked rule
    std::array<std::vector<T>, 3> atm_statistics;
    std::vector<Resampled> resampled;
};

// After the update of step t with (t + 1) % resample_every == 0, latents silent for more than resample_every
// B / 2 rows start again. Latent j takes the first row b at which sum_{b' <= b} |r_b'| passes u_j times the
// sum over all rows, r the whole width's residual of this step. With xc of this step:
//   d_j = xc_b / |xc_b|, times 0.1 for a free decoder;  w_j = 0.2 (mean |w| of the others) xc_b / |xc_b|
//   b_enc_j = rho_j = beta_j = 0, and all moments of these; schedule-free: z as y
// `others` are the latents that are not resampled; where there are none, all. Rows with xc = 0 weigh nothing,
// and where no row weighs anything nothing is resampled.
template <typename T>
std::vector<Resampled> resample(Trained<T>& t, const Forward<T>& at, std::size_t rows, const StepRules& rules,
                                const std::vector<double>& draws) {
    const std::size_t n = t.sae.n, width = t.sae.width;
    std::vector<Resampled> done;
    std::vector<T> cumulative(rows);
    T total = 0;
    for (std::size_t b = 0; b < rows; ++b) {
        if (norm_of(&at.xc[b * n], n) > 0) total += norm_of(&at.residual.back()[b * n], n);
        cumulative[b] = total;
    }
    if (total == 0) return done;
    const double limit = static_cast<double>(rules.resample_every) * static_cast<double>(rows) / 2;
    T norms = 0;
    std::size_t others = 0;
    for (std::size_t j = 0; j < width; ++j) {
        if (static_cast<double>(t.silent[j]) > limit) {
            std::size_t row = 0;
            while (row + 1 < rows && !(cumulative[row] > static_cast<T>(draws.at(j)) * total)) ++row;
            done.push_back({static_cast<std::uint32_t>(j), static_cast<std::uint32_t>(row)});
            continue;
        }
        norms += norm_of(t.sae.encoder(j), n);
        ++others;
    }
    if (others == 0)
        for (std::size_t j = 0; j < width; ++j, ++others) norms += norm_of(t.sae.encoder(j), n);
    const T encoder_norm = static_cast<T>(0.2) * norms / static_cast<T>(others);
    const T decoder_norm = rules.unit_decoder ? 1 : static_cast<T>(free_decoder_norm);
    const bool averaging = rules.optimiser != Optimiser::adam;
    for (const auto& [j, row] : done) {
        const T* xc = &at.xc[row * n];
        const T length = norm_of(xc, n);
        for (std::size_t c = 0; c < n; ++c) {
            t.sae.w_dec[j * n + c] = decoder_norm * xc[c] / length;
            t.sae.w_enc[j * n + c] = encoder_norm * xc[c] / length;
        }
        for (std::size_t c = 0; c < n; ++c)
            for (int i = 0; i < 2; ++i) {
                t.first.tensor(i)[j * n + c] = averaging ? t.sae.tensor(i)[j * n + c] : 0;
                t.second.tensor(i)[j * n + c] = 0;
            }
        for (Sae<T>* s : {&t.sae, &t.first, &t.second}) {
            s->b_enc[j] = 0;
            if (rules.kind == Kind::gated) s->latent[j] = s->latent[width + j] = 0;
        }
        t.silent[j] = 0;
    }
    return done;
}

// The factor of the learning rate `since` steps after a resampling that changed something.
inline double rate_after_resampling(std::int64_t since, std::int64_t warmup) {
    if (since >= warmup) return 1;
    const double tau = static_cast<double>(since) / static_cast<double>(warmup);
    return 0.1 + 0.9 * (1 - std::cos(3.14159265358979323846 * tau)) / 2;
}

template <typename T>
StepResult<T> step(Trained<T>& t, const std::vector<T>& x, const std::vector<T>& target, std::size_t rows,
                   const StepRules& rules, const Draws& draws = {}) {
    const Batch<T> batch{rows, x, target};
    const std::size_t width = t.sae.width;
    StepResult<T> result;
    for (std::size_t j = 0; j < width; ++j)
        if (t.silent[j] >= rules.dead_after) result.dead.push_back(static_cast<std::uint32_t>(j));
    if (rules.atm) {
        result.atm = atm_state(t.atm, *rules.atm, t.steps, width);
        if (result.atm.mean_probability > 0)
            result.kept = kept_pairs(result.atm.probability, draws.mask, rows, rules.atm->by_row);
    }

    const Point<T> point = point_at(t.sae, batch, rules, t.steps, result.kept, result.dead);
    result.forward = point.forward;
    result.mask = point.forward.selected;
    result.unmasked = point.forward.unmasked;
    result.threshold = smallest_selected(point.forward.z, result.mask);
    result.unmasked_threshold = smallest_selected(point.forward.z, result.unmasked);
    result.auxiliary = point.auxiliary;
    result.losses = losses_of(t.sae, batch, rules, point);
    result.auxiliary_loss = result.losses.auxiliary;
    result.squared_error = square_of(point.forward.residual.back());
    result.l0 = point.forward.l0;
    for (const T f : point.forward.f) result.l1 += f / static_cast<T>(rows);

    std::vector<std::uint32_t> restarted;
    for (std::size_t j = 0; j < width; ++j) {
        bool fired = false;
        for (std::size_t b = 0; b < rows; ++b) fired = fired || result.unmasked[b * width + j] != 0;
        t.silent[j] = fired ? 0 : t.silent[j] + rows;
        const auto latent = static_cast<std::uint32_t>(j);
        if (fired && std::ranges::find(result.dead, latent) != result.dead.end()) restarted.push_back(latent);
    }
    if (rules.atm) {
        result.atm_statistics = atm_statistics(t.sae, rules, point.forward, result.kept, rows);
        add_to_averages(t.atm, result.atm_statistics, *rules.atm);
        reset_averages(t.atm, restarted);
        std::size_t codes = 0, masked = 0;
        for (std::size_t i = 0; i < result.unmasked.size(); ++i) {
            if (result.unmasked[i] == 0) continue;
            ++codes;
            if (!has(result.kept, i)) ++masked;
        }
        if (codes > 0) result.masked_share = static_cast<T>(masked) / static_cast<T>(codes);
    }

    result.gradient = gradient_of(batch, rules, point);
    if (rules.unit_decoder) project(result.gradient, t.sae);
    result.gradient_norm = std::sqrt(square_norm(result.gradient));
    T scale = 1;
    if (rules.clip_norm > 0 && result.gradient_norm > static_cast<T>(rules.clip_norm))
        scale = static_cast<T>(rules.clip_norm) / result.gradient_norm;
    ++t.steps;
    if (rules.optimiser == Optimiser::adam) {
        adam(t.sae, t.first, t.second, result.gradient, rules.rates, scale, t.steps);
    } else {
        schedule_free(t.sae, t.first, t.second, result.gradient, rules.rates, scale, t.steps,
                      t.averaging.next(rules.rates.lr), rules.optimiser == Optimiser::signum);
        constrain(t.first, rules, result.dead, rows);
    }
    constrain(t.sae, rules, result.dead, rows);

    if (rules.resample_every > 0 && t.steps % rules.resample_every == 0) {
        result.resampled = resample(t, point.forward, rows, rules, draws.resample);
        std::vector<std::uint32_t> again;
        for (const Resampled& r : result.resampled) again.push_back(r.latent);
        if (rules.atm) reset_averages(t.atm, again);
    }
    return result;
}

template <typename T>
StepResult<T> step(Trained<T>& t, const std::vector<T>& x, std::size_t rows, const StepRules& rules,
                   const Draws& draws = {}) {
    return step(t, x, {}, rows, rules, draws);
}

}  // namespace strata::reference
