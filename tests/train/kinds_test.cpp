// Steps of every kind with every option against the reference in double. Before each step the reference takes
// over the parameters, so that steps are compared and not how roundings grow; moments, counters and averages
// are its own.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "comm/self.h"
#include "support/kinds.h"

namespace strata {
namespace {

using reference::Mask;
using reference::Sae;
using reference::StepResult;
using test::Form;
using test::KindCase;
using test::Pair;
using test::Training;

constexpr std::size_t rows = KindCase::rows, n = KindCase::n, width = KindCase::width;
constexpr int steps = 8;

// What a case must have met for its comparison to mean something.
struct Reached {
    bool masked = false, swapped = false, revived = false;  // masks; pairs taken in place of masked ones
    bool above = false, below = false, cut = false;         // of a window: either side of theta; z <= 0
    bool fell = false;                                      // threshold of a dead latent
    bool resampled = false, slowed = false;
    bool penalised = false, rising = false, risen = false, too_often = false;
    bool helped = false, clipped = false, unclipped = false, gate_alone = false;
};

struct Worst {
    double loss = 0, gradient = 0, parameter = 0, average = 0;
};

Mask mask_of(const std::vector<Pair>& pairs) {
    Mask mask(rows * width, 0);
    for (const Pair& pair : pairs) mask[pair.row * width + pair.latent] = 1;
    return mask;
}

void add_reached(Reached& reached, const KindCase& c, int t, const StepResult<double>& result,
                 const std::vector<std::uint64_t>& silent, const Sae<double>& before) {
    const reference::StepRules rules = test::rules_of(c, t);
    const std::vector<double> theta = reference::thetas(before, rules);
    const double half = std::sqrt(rules.mean_square) * rules.bandwidth / 2;
    for (std::size_t i = 0; i < rows * width; ++i) {
        if (result.unmasked[i] != 0 && !reference::has(result.kept, i)) reached.masked = true;
        if (result.unmasked[i] == 0 && result.mask[i] != 0) reached.swapped = true;
        if (rules.kind == reference::Kind::gated && result.forward.gate[i] != 0 && result.mask[i] == 0)
            reached.gate_alone = true;
        if (rules.kind != reference::Kind::jumprelu) continue;
        const double z = result.forward.z[i], at = theta[i % width];
        if (std::abs(z - at) < half) (z <= 0 ? reached.cut : z > at ? reached.above : reached.below) = true;
    }
    for (const std::uint32_t j : result.dead) reached.revived = reached.revived || silent[j] == 0;
    for (const std::uint32_t j : result.dead)
        reached.fell = reached.fell || rules.kind == reference::Kind::jumprelu ||
                       (reference::threshold_is_bias(rules.kind) && before.b_enc[j] < 0);
    const auto& losses = result.losses;
    reached.resampled = reached.resampled || !result.resampled.empty();
    reached.penalised = reached.penalised || losses.penalty > 0;
    reached.too_often = reached.too_often || losses.frequency > 0;
    (t + 1 < rules.penalty_warmup ? reached.rising : reached.risen) = true;
    reached.helped = reached.helped || losses.auxiliary > 0;
    (result.gradient_norm > rules.clip_norm ? reached.clipped : reached.unclipped) = true;
    reached.slowed = c.config.resample_every > 0 && reached.resampled;
}

void expect_reached(const Reached& reached, const KindCase& c) {
    const SaeConfig& config = c.config;
    EXPECT_TRUE(reached.clipped && reached.unclipped);
    EXPECT_EQ(reached.masked, config.atm.has_value());
    EXPECT_EQ(reached.swapped, config.atm && c.selects() && config.atm->place == "before");
    if (config.atm) {
        EXPECT_TRUE(reached.revived);
    }
    if (config.kind == "jumprelu") {
        EXPECT_TRUE(reached.above && reached.below);
        EXPECT_TRUE(reached.cut || c.theta > *config.bandwidth / 2);
    }
    EXPECT_EQ(reached.fell, !c.selects());
    EXPECT_EQ(reached.resampled, config.resample_every > 0);
    const bool penalty = config.l1 > 0 || config.l0 > 0 || config.l0_target;
    EXPECT_EQ(reached.penalised, penalty);
    EXPECT_EQ(reached.too_often, config.frequency > 0);
    if (penalty) {
        EXPECT_TRUE(reached.rising);
        EXPECT_EQ(reached.risen, config.penalty_warmup_steps < steps);
    }
    EXPECT_EQ(reached.helped, config.aux_k > 0);
    EXPECT_EQ(reached.gate_alone, config.kind == "gated");
}

void expect_near(Worst& worst, const char* what, double found, double expected) {
    const double error = std::abs(found - expected) / std::max(std::abs(expected), 1e-30);
    if (found == expected) return;
    EXPECT_LT(error, 1e-5) << what << ": " << found << ", expected " << expected;
    worst.loss = std::max(worst.loss, error);
}

void expect_near(double& worst, double allowed, const std::vector<float>& found,
                 const std::vector<double>& expected, const char* what) {
    ASSERT_EQ(found.size(), expected.size()) << what;
    const double error = test::relative_difference(found, expected);
    EXPECT_LT(error, allowed) << what;
    worst = std::max(worst, error);
}

void expect_same_codes(Training& training, const KindCase& c, Form form, const train::StepReport& report,
                       const StepResult<double>& result) {
    std::vector<double> expected(width);
    for (std::size_t i = 0; i < rows * width; ++i) expected[i % width] += result.mask[i] != 0;
    if (!c.selects()) {
        EXPECT_EQ(report.codes.count, expected);
    }
    if (form != Form::lists) return;
    std::vector<std::uint32_t> begin, latent;
    std::vector<float> value;
    training.device.read_codes(begin, latent, value);
    Mask mask(rows * width, 0);
    double worst = 0;
    for (std::size_t b = 0; b < rows; ++b)
        for (std::uint32_t e = begin[b]; e < begin[b + 1]; ++e) {
            mask[b * width + latent[e]] = 1;
            worst = std::max(worst, std::abs(value[e] - result.forward.f[b * width + latent[e]]));
        }
    EXPECT_EQ(mask, result.mask);
    EXPECT_LT(worst, 1e-5);
    using device::CodeSet;
    if (!result.kept.empty()) {
        EXPECT_EQ(mask_of(test::codes_of(training.device, CodeSet::observed)), result.unmasked);
    }
    if (c.config.kind == "jumprelu") {
        EXPECT_EQ(mask_of(test::codes_of(training.device, CodeSet::window)), result.forward.window);
    }
    if (c.config.kind == "gated") {
        EXPECT_EQ(mask_of(test::codes_of(training.device, CodeSet::gate)), result.forward.gate);
    }
    if (report.auxiliary_loss > 0) {
        EXPECT_EQ(mask_of(test::codes_of(training.device, CodeSet::auxiliary)), result.auxiliary.mask);
    }
}

// The averages after the step, and what the step was masked by.
void expect_same_atm(Worst& worst, const Training& training, const train::AtmState& before, const KindCase& c,
                     int t, const train::StepReport& report, const StepResult<double>& result,
                     const reference::Atm<double>& expected) {
    if (!c.config.atm) return;
    const train::AtmState& atm = training.sae.atm;
    EXPECT_EQ(atm.steps, expected.steps);
    const std::array averages = {&atm.activation, &atm.frequency, &atm.contribution};
    for (std::size_t i = 0; i < averages.size(); ++i) {
        const double error = test::relative_difference(*averages[i], expected.average[i]);
        EXPECT_LT(error, 1e-5) << "average " << i;
        worst.average = std::max(worst.average, error);
    }
    const train::AtmPlan plan = train::plan_masks(before, *c.config.atm, t);
    for (std::size_t j = 0; j < plan.probability.size(); ++j)
        EXPECT_NEAR(plan.probability[j], result.atm.probability[j], 1e-5) << j;
    if (plan.probability.empty()) {
        EXPECT_EQ(result.atm.mean_probability, 0);
    }
    expect_near(worst, "threshold of importance", report.atm.threshold, result.atm.threshold);
    expect_near(worst, "mean probability", report.atm.mean_probability, result.atm.mean_probability);
    EXPECT_NEAR(report.atm.above_share, result.atm.above, 1e-12);
    EXPECT_NEAR(report.atm.masked_share, result.masked_share, 1e-12);
}

class Kinds : public testing::TestWithParam<KindCase> {
  protected:
    const std::unique_ptr<Communicator> self = make_self_communicator();

    void match(Form form) {
        const KindCase& c = GetParam();
        const Sae<float> start = test::start_of(c);
        Training training(*self, start, c.config, rows, KindCase::mean_square, c.options());
        train::start_average(training.bench, training.sae, test::optimizer_at(0, c.optimizer));
        reference::Trained<double> expected(Sae<double>(start), test::rules_of(c, 0).optimiser);
        std::int64_t resampled_at = -1;
        Reached reached;
        Worst worst;
        for (int t = 0; t < steps; ++t) {
            SCOPED_TRACE(t);
            training.set_form(form);
            const train::AtmState atm_before = training.sae.atm;
            const Sae<float> before = training.parameters();
            expected.sae = Sae<double>(before);
            const test::Rows batch = test::clear_rows_of(c, t, before);
            const train::StepReport report = training.step(
                batch.x, batch.target, 0, rows, test::optimizer_at(t, c.optimizer), t, KindCase::lr);
            const StepResult<double> result = test::reference_step(c, expected, batch, resampled_at);
            add_reached(reached, c, t, result, expected.silent, Sae<double>(before));

            EXPECT_EQ(report.dense, form == Form::dense);
            expect_same_codes(training, c, form, report, result);
            const double all = rows;
            expect_near(worst, "squared error", report.sums.squared_error, result.squared_error);
            expect_near(worst, "over prefixes", report.sums.prefix_error / all, result.losses.prefixes);
            expect_near(worst, "l1", report.sums.l1 / all, result.l1);
            expect_near(worst, "penalty", report.penalty,
                        result.losses.penalty + result.losses.frequency + result.losses.gate);
            expect_near(worst, "auxiliary", report.auxiliary_loss, result.losses.auxiliary);
            expect_near(worst, "gradient norm", report.gradient_norm, result.gradient_norm);
            if (c.config.kind == "batch_topk" || c.config.kind == "matryoshka") {
                const bool after = c.config.atm && c.config.atm->place == "after";
                const Mask& taken = after ? result.unmasked : result.mask;
                const bool full = std::ranges::count(taken, 1) == sae::codes_of_batch(c.config.k, rows);
                expect_near(worst, "threshold", report.threshold,
                            !full   ? 0
                            : after ? result.unmasked_threshold
                                    : result.threshold);
            }
            EXPECT_EQ(report.sums.active, static_cast<std::uint64_t>(std::ranges::count(result.mask, 1)));
            EXPECT_EQ(report.dead, std::ssize(result.dead));
            EXPECT_EQ(report.resampled, std::ssize(result.resampled));
            EXPECT_EQ(training.sae.silent, expected.silent);
            EXPECT_EQ(training.sae.resampled_at, resampled_at);
            expect_same_atm(worst, training, atm_before, c, t, report, result, expected.atm);

            const Sae<float> gradient = training.gradient();
            const Sae<float> parameters = training.parameters();
            for (int i = 0; i < Sae<float>::tensors; ++i) {
                expect_near(worst.gradient, 1e-5, gradient.tensor(i), result.gradient.tensor(i),
                            Sae<float>::names[i]);
                expect_near(worst.parameter, 2e-5, parameters.tensor(i), expected.sae.tensor(i),
                            Sae<float>::names[i]);
            }
            if (c.optimizer != "adam") {
                const Sae<float> z = test::get(training.sae.first, training.device);
                for (int i = 0; i < Sae<float>::tensors; ++i)
                    expect_near(worst.parameter, 2e-5, z.tensor(i), expected.first.tensor(i),
                                Sae<float>::names[i]);
            }
            if (HasFailure()) break;  // the rest follows from it
        }
        if (!HasFailure()) expect_reached(reached, c);
        if (c.optimizer != "adam") {
            train::take_average(training.bench, training.sae, test::optimizer_at(0, c.optimizer));
            const Sae<double> average =
                reference::averaged(expected.sae, expected.first, test::rules_of(c, 0));
            const Sae<float> parameters = training.parameters();
            for (int i = 0; i < Sae<float>::tensors; ++i)
                expect_near(worst.parameter, 2e-5, parameters.tensor(i), average.tensor(i),
                            Sae<float>::names[i]);
        }
        RecordProperty("loss", fmt::format("{:.2e}", worst.loss));
        RecordProperty("gradient", fmt::format("{:.2e}", worst.gradient));
        RecordProperty("parameter", fmt::format("{:.2e}", worst.parameter));
        if (c.config.atm) RecordProperty("average", fmt::format("{:.2e}", worst.average));
    }
};

// Lists of pairs; for kinds that select the only form there is.
TEST_P(Kinds, StepsOfListsAreThoseOfTheReference) {
    match(Form::lists);
}

class ElementwiseKinds : public Kinds {};

TEST_P(ElementwiseKinds, StepsOfRangesOfRowsAreThoseOfTheReference) {
    match(Form::ranges);
}

TEST_P(ElementwiseKinds, StepsOfDenseProductsAreThoseOfTheReference) {
    match(Form::dense);
}

INSTANTIATE_TEST_SUITE_P(With, Kinds, testing::ValuesIn(test::kind_cases()), test::name_of_case);
INSTANTIATE_TEST_SUITE_P(Averaging, Kinds, testing::ValuesIn(test::averaging_cases()), test::name_of_case);
INSTANTIATE_TEST_SUITE_P(With, ElementwiseKinds, testing::ValuesIn(test::elementwise_cases()),
                         test::name_of_case);

}  // namespace
}  // namespace strata
