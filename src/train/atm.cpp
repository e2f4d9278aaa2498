#include "train/atm.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/random.h"

namespace strata::train {
namespace {

double mean_of(std::span<const double> values) {
    double sum = 0;
    for (const double v : values) sum += v;
    return sum / static_cast<double>(values.size());
}

// The three averages, each over its mean, combined. Bias correction is a common factor, which the mean takes
// out.
std::vector<double> importances(const AtmState& state, const AtmConfig& config) {
    const std::array<std::span<const double>, 3> statistics = {state.activation, state.frequency,
                                                               state.contribution};
    double total = 0;
    for (const double w : config.weights) total += w;
    const bool geometric = config.combine == "geometric";
    std::vector<double> importance(state.activation.size(), geometric ? 1.0 : 0.0);
    for (std::size_t i = 0; i < statistics.size(); ++i) {
        const double weight = config.weights[i] / total;
        const double correction = 1 - std::pow(config.decay, static_cast<double>(state.steps));
        const double mean = std::max(mean_of(statistics[i]) / correction, 1e-12);
        for (std::size_t j = 0; j < importance.size(); ++j) {
            const double relative = statistics[i][j] / correction / mean;
            if (geometric)
                importance[j] *= std::pow(relative, weight);
            else
                importance[j] += weight * relative;
        }
    }
    return importance;
}

// Uniform in [0, 1), a function of (seed, step, index).
float draw_at(std::uint64_t seed, std::int64_t step, std::int64_t index) {
    return Random(seed, Purpose::mask,
                  (static_cast<std::uint64_t>(step) << 32) ^ static_cast<std::uint64_t>(index))
        .uniform();
}

}  // namespace

AtmState make_atm(std::int64_t width) {
    AtmState state;
    for (auto* average : {&state.activation, &state.frequency, &state.contribution})
        average->assign(static_cast<std::size_t>(width), 0.0);
    return state;
}

AtmPlan plan_masks(const AtmState& state, const AtmConfig& config, std::int64_t step) {
    AtmPlan plan;
    if (state.steps == 0) return plan;
    const std::vector<double> importance = importances(state, config);
    const double mean = mean_of(importance);
    double square = 0;
    for (const double v : importance) square += (v - mean) * (v - mean);
    plan.threshold = mean + config.c * std::sqrt(square / static_cast<double>(importance.size()));
    plan.above.resize(importance.size());
    for (std::size_t j = 0; j < importance.size(); ++j) plan.above[j] = importance[j] >= plan.threshold;
    plan.above_share =
        static_cast<double>(std::ranges::count(plan.above, 1)) / static_cast<double>(plan.above.size());
    if (step < config.start_step || plan.threshold <= 0) return plan;
    const double ramp = config.ramp_steps == 0
                            ? 1
                            : std::min(1.0, static_cast<double>(step - config.start_step + 1) /
                                                static_cast<double>(config.ramp_steps));
    plan.probability.resize(importance.size());
    double sum = 0;
    for (std::size_t j = 0; j < importance.size(); ++j) {
        const double gap = std::max(0.0, plan.threshold - importance[j]) / plan.threshold;
        plan.probability[j] = static_cast<float>(1 - std::exp(-config.r * ramp * gap));
        sum += plan.probability[j];
    }
    plan.mean_probability = sum / static_cast<double>(importance.size());
    return plan;
}

AtmDraw draw_masks(const AtmPlan& plan, const AtmConfig& config, std::uint64_t seed, std::int64_t step,
                   std::int64_t first, std::int64_t rows) {
    AtmDraw draw;
    if (plan.probability.empty()) return draw;
    draw.draw.resize(static_cast<std::size_t>(rows), 0.5F);
    if (config.law == "token") {
        draw.probability = plan.probability;
        for (std::int64_t b = 0; b < rows; ++b)
            draw.draw[static_cast<std::size_t>(b)] = draw_at(seed, step, first + b);
        return draw;
    }
    draw.probability.resize(plan.probability.size());
    for (std::size_t j = 0; j < plan.probability.size(); ++j)
        draw.probability[j] =
            draw_at(seed, step, static_cast<std::int64_t>(j)) < plan.probability[j] ? 1.0F : 0.0F;
    return draw;
}

void update_atm(AtmState& state, const AtmConfig& config, std::span<const double> value,
                std::span<const double> count, std::span<const double> change, std::int64_t rows,
                std::span<const std::uint32_t> fresh) {
    const double each = (1 - config.decay) / static_cast<double>(rows);
    for (std::size_t j = 0; j < value.size(); ++j) {
        state.activation[j] = config.decay * state.activation[j] + each * value[j];
        state.frequency[j] = config.decay * state.frequency[j] + each * count[j];
        state.contribution[j] = config.decay * state.contribution[j] + each * std::max(0.0, change[j]);
    }
    ++state.steps;
    refresh_atm(state, fresh);
}

void refresh_atm(AtmState& state, std::span<const std::uint32_t> fresh) {
    if (fresh.empty() || fresh.size() == state.activation.size()) return;
    for (auto* average : {&state.activation, &state.frequency, &state.contribution}) {
        double sum = 0;
        for (const double v : *average) sum += v;
        for (const std::uint32_t j : fresh) sum -= (*average)[j];
        const double mean = sum / static_cast<double>(average->size() - fresh.size());
        for (const std::uint32_t j : fresh) (*average)[j] = mean;
    }
}

}  // namespace strata::train
