#pragma once
// Every kind of SAE with every option, as small problems in which each of their branches is reached, and the
// rules and draws by which the reference takes the same steps.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "base/random.h"
#include "config/config.h"
#include "sae/sae.h"
#include "support/problem.h"
#include "support/reference.h"
#include "support/training.h"

namespace strata::test {

struct KindCase {
    std::string name;
    SaeConfig config;
    bool transcoder = false;
    double theta = 0;  // jumprelu: about where thresholds start
    std::string optimizer = "adam";

    static constexpr std::size_t rows = 48, n = 20, width = 150;  // of the global batch
    static constexpr double mean_square = 1.3, lr = 0.01;
    static constexpr std::int64_t run_steps = 100;
    static constexpr std::uint64_t seed = 11;

    bool selects() const { return reference::selects(reference::kind_named(config.kind)); }
    Training::Options options(int threads = 2) const {
        return {.threads = threads, .steps = run_steps, .seed = seed, .transcoder = transcoder};
    }
};

inline std::string name_of_case(const testing::TestParamInfo<KindCase>& info) {
    return info.param.name;
}

inline void PrintTo(const KindCase& c, std::ostream* out) {
    *out << c.name;
}

// Clips in all steps but the fourth.
inline OptimizerConfig optimizer_at(std::int64_t step, const std::string& kind = "adam") {
    OptimizerConfig optimizer;
    optimizer.kind = kind;
    optimizer.clip_norm = step == 3 ? 100 : 0.5;
    optimizer.epsilon = 1e-5;  // gradients that are zero but for rounding do not move anything far
    return optimizer;
}

// Every third latent fires rarely or never. Thresholds, gains and offsets differ from latent to latent, and
// so do the norms of free decoder rows.
inline reference::Sae<float> start_of(const KindCase& c) {
    const auto width = static_cast<std::size_t>(c.config.width);
    const std::size_t n = KindCase::n;
    reference::Sae<float> sae = make_problem(KindCase::rows, n, width).sae;
    Random random(5, Purpose::synthetic);
    for (std::size_t j = 0; j < width; j += 3)
        sae.b_enc[j] -= j % 2 == 0 ? 0.4F + 0.2F * random.uniform() : 3.0F;
    if (c.config.kind == "jumprelu")
        for (std::size_t j = 0; j < width; ++j) {
            const auto theta = static_cast<float>(c.theta) * (0.5F + random.uniform());
            sae.latent.push_back(c.config.theta == "log" ? std::log(theta) : theta);
        }
    if (c.config.kind == "gated")
        for (std::size_t i = 0; i < 2 * width; ++i)
            sae.latent.push_back((i < width ? 0.2F : 0.1F) * random.normal());
    if (c.config.decoder == "free")
        for (std::size_t j = 0; j < width; ++j) {
            const float norm = 0.3F + random.uniform();
            for (std::size_t i = 0; i < n; ++i) sae.w_dec[j * n + i] *= norm;
        }
    if (c.config.skip)
        for (std::size_t i = 0; i < n * n; ++i) sae.skip.push_back(0.05F * random.normal());
    return sae;
}

struct Rows {
    std::vector<float> x, target;
};

inline Rows rows_of(const KindCase& c, int number, std::size_t count = KindCase::rows) {
    Rows rows{make_batch(count, KindCase::n, number), {}};
    if (!c.transcoder) return rows;
    rows.target = make_batch(count, KindCase::n, 500000 + number);
    for (std::size_t i = 0; i < rows.x.size(); ++i)
        rows.target[i] = 0.5F * rows.target[i] + 0.7F * rows.x[i] + 0.1F;
    return rows;
}

inline reference::StepRules rules_of(const KindCase& c, std::int64_t step) {
    const OptimizerConfig optimizer = optimizer_at(step, c.optimizer);
    const SaeConfig& config = c.config;
    reference::StepRules rules;
    rules.kind = reference::kind_named(config.kind);
    rules.k = config.k;
    if (config.row_cap > 0)
        rules.row_cap = static_cast<std::size_t>(
            std::max(1LL, std::llround(static_cast<double>(config.row_cap) * config.k)));
    for (const std::int64_t end : prefix_widths(config))
        rules.prefixes.push_back(static_cast<std::size_t>(end));
    rules.unit_decoder = config.decoder == "unit";
    rules.l1 = config.l1;
    rules.l0 = config.l0;
    rules.l0_target = config.l0_target;
    rules.frequency = config.frequency;
    rules.frequency_limit = config.frequency_limit;
    rules.bandwidth = sae::bandwidth_of(config);
    rules.log_theta = config.theta == "log";
    rules.threshold_fall = config.threshold_fall;
    rules.penalty_warmup = std::min(config.penalty_warmup_steps, KindCase::run_steps / 4);
    rules.mean_square = KindCase::mean_square;
    rules.aux_k = static_cast<std::size_t>(config.aux_k.value());
    rules.aux_coefficient = config.aux_coefficient;
    rules.dead_after =
        sae::dead_after(config, KindCase::run_steps * static_cast<std::int64_t>(KindCase::rows));
    rules.resample_every = config.resample_every;
    if (config.atm)
        rules.atm = reference::AtmRules{
            .decay = config.atm->decay,
            .c = config.atm->c,
            .r = config.atm->r,
            .start_step = config.atm->start_step,
            .ramp_steps = config.atm->ramp_steps,
            .by_row = config.atm->law == "token",
            .before_selection = config.atm->place == "before",
            .geometric = config.atm->combine == "geometric",
            .weights = {config.atm->weights[0], config.atm->weights[1], config.atm->weights[2]}};
    rules.clip_norm = optimizer.clip_norm;
    rules.optimiser = c.optimizer == "adam"     ? reference::Optimiser::adam
                      : c.optimizer == "signum" ? reference::Optimiser::signum
                                                : reference::Optimiser::adam_schedule_free;
    rules.rates = {
        .lr = KindCase::lr, .beta1 = optimizer.beta1, .beta2 = optimizer.beta2, .epsilon = optimizer.epsilon};
    return rules;
}

// The numbers that step `step` draws: functions of (seed, step, latent or row), as src/train/atm.cpp and
// resample.cpp take them.
inline reference::Draws draws_of(const KindCase& c, std::int64_t step) {
    const auto draw = [&](Purpose purpose, std::size_t count) {
        std::vector<double> numbers;
        for (std::uint64_t i = 0; i < count; ++i)
            numbers.push_back(
                Random(KindCase::seed, purpose, (static_cast<std::uint64_t>(step) << 32) ^ i).uniform());
        return numbers;
    };
    reference::Draws draws;
    if (c.config.atm)
        draws.mask = draw(Purpose::mask, c.config.atm->law == "token" ? KindCase::rows : KindCase::width);
    draws.resample = draw(Purpose::resampling, KindCase::width);
    return draws;
}

// How far the nearest pair is from where an elementwise rule takes it for another: nearer than roundings, it
// may fall on either side.
inline double nearest_edge(const reference::Sae<double>& sae, const Rows& rows,
                           const reference::StepRules& rules) {
    const reference::Batch<double> batch{rows.x.size() / sae.n, widen(rows.x), widen(rows.target)};
    const std::vector<double> z = reference::pre_activations(sae, batch);
    const std::vector<double> theta = reference::thetas(sae, rules);
    const double half = std::sqrt(rules.mean_square) * rules.bandwidth / 2;
    double nearest = 1;
    for (std::size_t i = 0; i < z.size(); ++i) {
        const std::size_t j = i % sae.width;
        nearest = std::min(nearest, std::abs(z[i]));
        if (rules.kind == reference::Kind::gated)
            nearest = std::min(nearest, std::abs(std::exp(sae.latent[j]) * (z[i] - sae.b_enc[j]) +
                                                 sae.latent[sae.width + j]));
        if (rules.kind != reference::Kind::jumprelu) continue;
        const double from = std::abs(z[i] - theta[j]);
        nearest = std::min({nearest, from, std::abs(from - half)});
    }
    return nearest;
}

// The rows of a step, such that with these parameters no pair of an elementwise kind depends on roundings.
inline Rows clear_rows_of(const KindCase& c, std::int64_t step, const reference::Sae<float>& sae,
                          std::size_t count = KindCase::rows, double margin = 1e-6) {
    const reference::StepRules rules = rules_of(c, step);
    for (int attempt = 0;; ++attempt) {
        Rows rows = rows_of(c, static_cast<int>(1000 * step) + attempt, count);
        if (c.selects() || nearest_edge(reference::Sae<double>(sae), rows, rules) > margin) return rows;
    }
}

// One step of the reference, with the rate that follows a resampling. `resampled_at` as TrainedSae has it;
// `rank_rows` are those of the ranks that select among their own.
inline reference::StepResult<double> reference_step(const KindCase& c, reference::Trained<double>& trained,
                                                    const Rows& rows, std::int64_t& resampled_at,
                                                    const std::vector<std::size_t>& rank_rows = {}) {
    const std::int64_t step = trained.steps;
    reference::StepRules rules = rules_of(c, step);
    rules.rank_rows = rank_rows;
    if (resampled_at >= 0)
        rules.rates.lr *=
            reference::rate_after_resampling(step - resampled_at, c.config.resample_warmup_steps);
    reference::StepResult<double> result =
        reference::step(trained, widen(rows.x), widen(rows.target), KindCase::rows, rules, draws_of(c, step));
    if (!result.resampled.empty()) resampled_at = step;
    return result;
}

namespace detail {

inline SaeConfig kind_config(const char* kind, double k = 0) {
    SaeConfig config = make_config(kind, KindCase::width, k);
    config.aux_k = k > 0 ? 5 : 0;
    config.aux_coefficient = 0.25;
    config.dead_after_tokens = 2 * static_cast<std::int64_t>(KindCase::rows);
    config.penalty_warmup_steps = 4;
    config.bandwidth = 0.1;
    config.resample_warmup_steps = 4;
    return config;
}

// Each kind, its forms and penalties.
inline std::vector<KindCase> kinds() {
    std::vector<KindCase> all;
    // The configuration until the next one is added.
    const auto add = [&](const char* name, SaeConfig config, double theta = 0) {
        all.push_back({name, std::move(config), false, theta});
        return &all.back().config;
    };
    add("relu", kind_config("relu"))->l1 = 0.02;
    SaeConfig* free = add("relu_free", kind_config("relu"));
    free->l1 = 0.03;
    free->decoder = "free";
    add("topk", kind_config("topk", 4));
    add("batch_topk", kind_config("batch_topk", 4));
    add("batch_topk_capped", kind_config("batch_topk", 3.7))->row_cap = 2;
    add("batch_topk_local", kind_config("batch_topk", 4))->threshold_scope = "local";
    add("jumprelu", kind_config("jumprelu"), 0.15)->l0 = 0.005;
    SaeConfig* log = add("jumprelu_log", kind_config("jumprelu"), 0.15);
    log->l0 = 0.005;
    log->theta = "log";
    SaeConfig* target = add("jumprelu_target", kind_config("jumprelu"), 0.15);
    target->l0_target = 12;
    target->penalty_warmup_steps = 1000;  // more than a quarter of the run
    SaeConfig* often = add("jumprelu_frequency", kind_config("jumprelu"), 0.15);
    often->frequency = 0.5;
    often->l0 = 0.002;
    add("jumprelu_past_zero", kind_config("jumprelu"), 0.02)->l0 = 0.005;
    add("gated", kind_config("gated"))->l1 = 0.02;
    SaeConfig* nested = add("matryoshka", kind_config("matryoshka", 4));
    nested->prefixes = {0.1, 0.35, 1};
    return all;
}

inline AtmConfig masking(const char* law) {
    AtmConfig atm;
    atm.decay = 0.9;
    atm.r = 2;
    atm.start_step = 2;
    atm.ramp_steps = 3;
    atm.law = law;
    return atm;
}

}  // namespace detail

// Every kind alone, with each option, and with all of them.
inline std::vector<KindCase> kind_cases() {
    std::vector<KindCase> all;
    for (const KindCase& kind : detail::kinds()) {
        const auto add = [&](const char* option, const auto& change) {
            KindCase c = kind;
            c.name += option;
            change(c);
            all.push_back(std::move(c));
        };
        const bool may_resample = kind.config.kind == "relu" || kind.config.kind == "gated";
        const auto prefixes = [&](KindCase& c) {
            if (c.config.prefixes.empty()) c.config.prefixes = {7, 8, 60};
        };
        const auto resampling = [](KindCase& c) { c.config.resample_every = 3; };
        const auto masks = [&](const char* law, const char* place) {
            return [law, place](KindCase& c) {
                c.config.atm = detail::masking(law);
                c.config.atm->place = place;
                c.config.dead_after_tokens = static_cast<std::int64_t>(KindCase::rows);
            };
        };
        const auto transcoder = [](KindCase& c) { c.transcoder = true; };
        const auto skip = [](KindCase& c) { c.transcoder = c.config.skip = true; };
        add("", [](KindCase&) {});
        if (kind.config.kind != "matryoshka") add("_prefixes", prefixes);
        add("_masked_latents", masks("latent", "before"));
        add("_masked_tokens", [&](KindCase& c) {
            masks("token", "before")(c);
            c.config.atm->combine = "geometric";
            c.config.atm->weights = {1, 0.5, 2};
            c.config.atm->ramp_steps = 0;
        });
        if (kind.selects()) {
            add("_masked_latents_after", masks("latent", "after"));
            add("_masked_tokens_after", masks("token", "after"));
        }
        add("_transcoder", transcoder);
        add("_transcoder_skip", skip);
        if (may_resample) add("_resampling", resampling);
        add("_all", [&](KindCase& c) {
            prefixes(c);
            masks("token", "before")(c);
            skip(c);
            if (may_resample) resampling(c);
        });
        if (may_resample)
            add("_resampling_masked", [&](KindCase& c) {
                masks("latent", "before")(c);
                resampling(c);
            });
    }
    return all;
}

// Every kind under the optimisers that average.
inline std::vector<KindCase> averaging_cases() {
    std::vector<KindCase> all;
    for (KindCase c : detail::kinds()) {
        c.name += "_averaged";
        c.optimizer = "adam_schedule_free";
        all.push_back(c);
        if (c.config.kind != "relu" && c.config.kind != "gated") continue;
        c.name += "_resampling";
        c.config.resample_every = 3;
        all.push_back(c);
    }
    return all;
}

inline std::vector<KindCase> elementwise_cases() {
    std::vector<KindCase> all = kind_cases();
    std::erase_if(all, [](const KindCase& c) { return c.selects(); });
    return all;
}

}  // namespace strata::test
