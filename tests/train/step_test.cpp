// A whole training step on one rank: against the reference, and the properties that implementations of others
// were seen to lack.

#include "train/step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "comm/self.h"
#include "support/problem.h"
#include "support/reference.h"
#include "support/training.h"

namespace strata {
namespace {

using reference::Mask;
using reference::Sae;
using test::Awkward;
using test::make_batch;
using test::make_config;
using test::Pair;
using test::Training;

constexpr std::size_t rows = 48, n = 20, width = 150;

OptimizerConfig plain_adam() {
    OptimizerConfig optimizer;
    optimizer.clip_norm = 0;
    return optimizer;
}

// Some latents that cannot fire: their biases are far below what their products reach. They are dead from
// `dead_after_tokens` rows on, but not without positive pre-activations for the auxiliary term: every sixth
// has some.
test::Problem with_silent_latents() {
    test::Problem p = test::make_problem(rows, n, width);
    for (std::size_t j = 0; j < width; j += 3) p.sae.b_enc[j] -= j % 2 == 0 ? 0.4F : 3.0F;
    return p;
}

SaeConfig with_auxiliary(const char* kind, double k, std::int64_t dead_after) {
    SaeConfig config = make_config(kind, width, k);
    config.aux_k = 5;
    config.aux_coefficient = 0.25;
    config.dead_after_tokens = dead_after;
    return config;
}

class TrainStep : public testing::TestWithParam<const char*> {
  protected:
    const std::unique_ptr<Communicator> self = make_self_communicator();
};

INSTANTIATE_TEST_SUITE_P(Kind, TrainStep, testing::Values("topk", "batch_topk"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(TrainStep, MatchesTheReferenceStepForStep) {
    const test::Problem p = with_silent_latents();
    const SaeConfig config = with_auxiliary(GetParam(), 4, 2 * rows);
    const double mean_square = 1.3;
    Training training(*self, p.sae, config, rows, mean_square);
    reference::Trained<double> expected{Sae<double>(p.sae)};
    reference::StepRules rules;
    rules.kind = reference::kind_named(GetParam());
    rules.k = 4;
    rules.aux_k = 5;
    rules.aux_coefficient = config.aux_coefficient;
    rules.mean_square = mean_square;
    rules.dead_after = 2 * rows;
    rules.clip_norm = 1;
    rules.rates = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-5};
    OptimizerConfig optimizer;
    optimizer.clip_norm = rules.clip_norm;
    optimizer.epsilon = rules.rates.epsilon;

    bool helped = false, clipped = false, unclipped = false;
    for (int t = 0; t < 8; ++t) {
        SCOPED_TRACE(t);
        std::vector<float> x = make_batch(rows, n, t);
        if (t == 3)
            for (float& v : x) v *= 0.05F;  // a step below the clip
        const train::StepReport report = training.step(x, optimizer, t, 0.01);
        const reference::StepResult<double> result = reference::step(expected, test::widen(x), rows, rules);
        EXPECT_EQ(report.dead, std::ssize(result.dead));
        EXPECT_NEAR(report.sums.squared_error, result.squared_error, 1e-5 * result.squared_error);
        EXPECT_NEAR(report.auxiliary_loss, result.auxiliary_loss, 1e-5 * result.auxiliary_loss);
        EXPECT_NEAR(report.gradient_norm, result.gradient_norm, 1e-5 * result.gradient_norm);
        if (rules.kind == reference::Kind::batch_topk) {
            EXPECT_NEAR(report.threshold, result.threshold, 1e-5 * result.threshold);
        }
        Mask mask(rows * width, 0);
        for (const Pair& pair : test::codes_of(training.device)) mask[pair.row * width + pair.latent] = 1;
        ASSERT_EQ(mask, result.mask);
        EXPECT_EQ(training.sae.silent, expected.silent);
        const Sae<float> parameters = training.parameters();
        for (int i = 0; i < 4; ++i)
            EXPECT_LT(test::relative_difference(parameters.tensor(i), expected.sae.tensor(i)), 2e-5)
                << Sae<float>::names[i];
        helped = helped || result.auxiliary_loss > 0;
        clipped = clipped || result.gradient_norm > rules.clip_norm;
        unclipped = unclipped || result.gradient_norm < rules.clip_norm;
    }
    EXPECT_TRUE(helped && clipped && unclipped) << "the test does not reach what it is for";
}

TEST_P(TrainStep, StateDoesNotDependOnTheNumberOfThreads) {
    const test::Problem p = with_silent_latents();
    const SaeConfig config = with_auxiliary(GetParam(), 4, 2 * rows);
    const auto state_after_five = [&](int threads) {
        Training training(*self, p.sae, config, rows, 1, {.threads = threads});
        for (int t = 0; t < 5; ++t) training.step(make_batch(rows, n, t), OptimizerConfig{}, t, 0.01);
        return training.state_bits();
    };
    const std::uint64_t expected = state_after_five(1);
    for (const int threads : {2, 3, 5}) EXPECT_EQ(state_after_five(threads), expected) << threads;
}

// The auxiliary loss as a function of one dead latent's encoder row, e and its variance held.
TEST_P(TrainStep, AuxiliaryGradientReachesTheEncoderOfDeadLatents) {
    const test::Problem p = with_silent_latents();
    const std::vector<float> x = make_batch(rows, n, 0);
    const SaeConfig config = with_auxiliary(GetParam(), 4, 0);  // all are dead before the first step
    Training training(*self, p.sae, config, rows, 1.3);
    training.step(x, plain_adam(), 0, 0);
    std::vector<char> fires(width, 0), helps(width, 0);
    for (const Pair& pair : test::codes_of(training.device)) fires[pair.latent] = 1;
    for (const Pair& pair : test::codes_of(training.device, device::CodeSet::auxiliary))
        helps[pair.latent] = 1;

    Sae<double> sae(p.sae);
    const std::vector<double> wide = test::widen(x);
    const std::vector<double> z = reference::pre_activations(sae, wide, rows);
    Mask mask(rows * width, 0);
    for (const Pair& pair : test::codes_of(training.device)) mask[pair.row * width + pair.latent] = 1;
    reference::StepRules rules;
    rules.aux_k = 5;
    rules.aux_coefficient = config.aux_coefficient;
    rules.mean_square = 1.3;
    std::vector<std::uint32_t> all(width);
    for (std::uint32_t j = 0; j < width; ++j) all[j] = j;
    const reference::Auxiliary<double> auxiliary =
        reference::freeze_auxiliary(sae, wide, z, mask, all, rules, rows);

    const Sae<float> gradient = training.gradient();
    int compared = 0;
    for (std::size_t j = 0; j < width; ++j) {
        if (fires[j] != 0 || helps[j] == 0) continue;
        ++compared;
        std::vector<double> differences(n);
        for (std::size_t c = 0; c < n; ++c) {
            double& value = sae.w_enc[j * n + c];
            const double at = value;
            double loss[2];
            for (const int side : {0, 1}) {
                value = at + (side == 0 ? -1e-4 : 1e-4);
                loss[side] = reference::auxiliary_loss(sae, reference::pre_activations(sae, wide, rows),
                                                       auxiliary, rows);
            }
            value = at;
            differences[c] = (loss[1] - loss[0]) / 2e-4;
        }
        EXPECT_GT(test::largest(differences), 1e-6);
        const std::vector<float> row(gradient.w_enc.begin() + static_cast<std::ptrdiff_t>(j * n),
                                     gradient.w_enc.begin() + static_cast<std::ptrdiff_t>((j + 1) * n));
        EXPECT_LT(test::relative_difference(row, differences), 1e-4) << j;
    }
    EXPECT_GT(compared, 3);
}

// x and b_dec move together: x - b_dec, the pre-activations and the residual stay, and so must the auxiliary
// loss.
TEST_P(TrainStep, AuxiliaryLossDoesNotContainTheDecoderBias) {
    test::Problem p = with_silent_latents();
    std::vector<float> x = make_batch(rows, n, 0);
    double losses[2];
    for (const int moved : {0, 1}) {
        if (moved != 0) {
            for (float& v : x) v += 2;
            for (float& v : p.sae.b_dec) v += 2;
        }
        Training training(*self, p.sae, with_auxiliary(GetParam(), 4, 0), rows, 1);
        losses[moved] = training.step(x, plain_adam(), 0, 0).auxiliary_loss;
    }
    EXPECT_GT(losses[0], 0.01);
    EXPECT_NEAR(losses[1], losses[0], 1e-5 * losses[0]);
}

// The residual that the auxiliary term explains is a constant to it.
TEST_P(TrainStep, LiveLatentsHaveTheSameGradientWithAndWithoutAuxiliary) {
    const test::Problem p = with_silent_latents();
    SaeConfig config = with_auxiliary(GetParam(), 4, 2 * rows);
    Sae<float> gradients[2];
    std::vector<char> helps(width, 0);
    for (const int with : {0, 1}) {
        config.aux_k = with == 0 ? 0 : 5;
        Training training(*self, p.sae, config, rows, 1);
        for (int t = 0; t < 3; ++t) {
            const train::StepReport report = training.step(make_batch(rows, n, t), plain_adam(), t, 0);
            EXPECT_EQ(report.auxiliary_loss > 0, with == 1 && t == 2);
        }
        gradients[with] = training.gradient();
        if (with == 1)
            for (const Pair& pair : test::codes_of(training.device, device::CodeSet::auxiliary))
                helps[pair.latent] = 1;
    }
    int live = 0, helped = 0;
    for (std::size_t j = 0; j < width; ++j) {
        const auto row_of = [&](const std::vector<float>& t) {
            return std::vector<float>(t.begin() + static_cast<std::ptrdiff_t>(j * n),
                                      t.begin() + static_cast<std::ptrdiff_t>((j + 1) * n));
        };
        const bool same = row_of(gradients[0].w_enc) == row_of(gradients[1].w_enc) &&
                          row_of(gradients[0].w_dec) == row_of(gradients[1].w_dec) &&
                          gradients[0].b_enc[j] == gradients[1].b_enc[j];
        EXPECT_EQ(same, helps[j] == 0) << j;
        live += gradients[0].b_enc[j] != 0 && helps[j] == 0;
        helped += helps[j];
    }
    EXPECT_GT(live, 20);
    EXPECT_GT(helped, 3);
}

TEST_P(TrainStep, OnlyLatentsSilentForLongAreHelped) {
    const test::Problem p = with_silent_latents();
    Training training(*self, p.sae, with_auxiliary(GetParam(), 4, 3 * rows), rows, 1);
    for (int t = 0; t < 6; ++t) {
        const std::vector<std::uint64_t> silent = training.sae.silent;
        training.step(make_batch(rows, n, t), plain_adam(), t, 0.001);
        if (t < 3) continue;
        const std::vector<Pair> auxiliary = test::codes_of(training.device, device::CodeSet::auxiliary);
        EXPECT_FALSE(auxiliary.empty());
        for (const Pair& pair : auxiliary) EXPECT_GE(silent[pair.latent], 3 * rows);
    }
}

TEST_P(TrainStep, SavedDecoderRowsAreUnit) {
    const test::Problem p = with_silent_latents();
    Training training(*self, p.sae, with_auxiliary(GetParam(), 4, 2 * rows), rows, 1);
    for (int t = 0; t < 10; ++t) {
        training.step(make_batch(rows, n, t), OptimizerConfig{}, t, 0.05);
        const Sae<float> sae = training.parameters();
        for (std::size_t j = 0; j < width; ++j) {
            double square = 0;
            for (std::size_t c = 0; c < n; ++c)
                square += std::pow(static_cast<double>(sae.w_dec[j * n + c]), 2);
            ASSERT_NEAR(std::sqrt(square), 1, 1e-6) << t << " " << j;
        }
    }
}

// After the projection, no row's gradient has a part along the row: a step cannot be spent on what the
// renormalisation undoes.
TEST_P(TrainStep, DecoderGradientIsOrthogonalToItsRow) {
    const test::Problem p = with_silent_latents();
    Training training(*self, p.sae, with_auxiliary(GetParam(), 4, 0), rows, 1);
    training.step(make_batch(rows, n, 0), plain_adam(), 0, 0);
    const Sae<float> gradient = training.gradient();
    const double most = test::largest(gradient.w_dec);
    for (std::size_t j = 0; j < width; ++j) {
        double along = 0;
        for (std::size_t c = 0; c < n; ++c)
            along += static_cast<double>(gradient.w_dec[j * n + c]) * p.sae.w_dec[j * n + c];
        EXPECT_LT(std::abs(along), 1e-5 * most) << j;
    }
}

// Input, encoder bias and decoder bias times s: the same codes times s, every gradient times a power of s.
// With a power of two not a bit may differ.
TEST_P(TrainStep, ScalesWithItsInput) {
    const test::Problem p = with_silent_latents();
    const auto run = [&](float s) {
        test::Problem scaled = p;
        std::vector<float> x = make_batch(rows, n, 0);
        for (auto* values : {&x, &scaled.sae.b_enc, &scaled.sae.b_dec})
            for (float& v : *values) v *= s;
        Training training(*self, scaled.sae, with_auxiliary(GetParam(), 4, 0), rows,
                          static_cast<double>(s) * s);
        const train::StepReport report = training.step(x, plain_adam(), 0, 0);
        return std::tuple(report, test::codes_of(training.device), training.gradient());
    };
    const auto [report, codes, gradient] = run(1);
    EXPECT_GT(report.auxiliary_loss, 0);
    for (const float s : {1024.0F, 1.0F / 4096}) {
        const auto [scaled_report, scaled_codes, scaled_gradient] = run(s);
        EXPECT_EQ(scaled_report.sums.squared_error, s * s * report.sums.squared_error);
        EXPECT_EQ(scaled_report.auxiliary_loss, s * s * report.auxiliary_loss);
        EXPECT_EQ(scaled_report.sums.cosine, report.sums.cosine);
        EXPECT_EQ(scaled_report.threshold, s * report.threshold);
        ASSERT_EQ(scaled_codes.size(), codes.size());
        for (std::size_t i = 0; i < codes.size(); ++i)
            ASSERT_EQ(scaled_codes[i], (Pair{codes[i].row, codes[i].latent, s * codes[i].value}));
        for (int i = 0; i < 4; ++i) {
            const float factor = i < 2 ? s * s : s;
            for (std::size_t e = 0; e < gradient.tensor(i).size(); ++e)
                ASSERT_EQ(scaled_gradient.tensor(i)[e], factor * gradient.tensor(i)[e])
                    << Sae<float>::names[i];
        }
    }
}

// The variance of equal errors is a rounding error; dividing by it would blow the step up.
TEST_P(TrainStep, AuxiliaryTermIsIdleWhereAllRowsAreEqual) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{7}, rows}) {
        const test::Problem p = test::make_problem(count, n, width, Awkward::one_row_many_times);
        Training training(*self, p.sae, with_auxiliary(GetParam(), 4, 0), static_cast<std::int64_t>(count),
                          1);
        const train::StepReport report = training.step(p.x, plain_adam(), 0, 0);
        EXPECT_EQ(report.auxiliary_loss, 0) << count;
        EXPECT_LT(report.gradient_norm, 100) << count;
    }
}

TEST_P(TrainStep, ABatchWithoutPositiveCodesIsTrainedOnItsBias) {
    const test::Problem p = test::make_problem(rows, n, width, Awkward::none_positive);
    Training training(*self, p.sae, with_auxiliary(GetParam(), 4, 0), rows, 1);
    const train::StepReport report = training.step(p.x, plain_adam(), 0, 0.01);
    EXPECT_EQ(report.sums.active, 0U);
    EXPECT_EQ(report.threshold, 0);
    EXPECT_GT(report.gradient_norm, 0);
    const Sae<float> after = training.parameters();
    EXPECT_EQ(after.w_enc, p.sae.w_enc);
    EXPECT_EQ(after.b_enc, p.sae.b_enc);
    EXPECT_NE(after.b_dec, p.sae.b_dec);
    for (const std::uint64_t silent : training.sae.silent) EXPECT_EQ(silent, rows);
}

TEST_P(TrainStep, AGradientThatIsNotFiniteEndsTheRunAndMovesNothing) {
    const test::Problem p = with_silent_latents();
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        Training training(*self, p.sae, with_auxiliary(GetParam(), 4, 2 * rows), rows, 1);
        std::vector<float> x = make_batch(rows, n, 0);
        x[5 * n + 3] = bad;
        const std::uint64_t before = test::bits_of(training.parameters());
        try {
            training.step(x, OptimizerConfig{}, 41, 0.01);
            ADD_FAILURE() << "went on";
        } catch (const RunError& e) {
            EXPECT_NE(std::string(e.what()).find("the SAE"), std::string::npos) << e.what();
            EXPECT_NE(std::string(e.what()).find("step 42"), std::string::npos) << e.what();
        }
        EXPECT_EQ(test::bits_of(training.parameters()), before);
    }
}

// The cosine of a row is that of the row as it came, however far the bias is from it.
TEST_P(TrainStep, CosineOfRowsMuchShorterThanTheBias) {
    test::Problem p = test::make_problem(rows, n, width);
    for (float& v : p.sae.b_dec) v = 0.5F;
    for (const float length : {0.0F, 1e-4F, 1e-2F}) {
        std::vector<float> x = make_batch(rows, n, 0);
        for (float& v : x) v *= length;
        Training training(*self, p.sae, make_config(GetParam(), width, 4), rows, 1);
        const train::StepReport report = training.step(x, plain_adam(), 0, 0);
        const Sae<double> sae(p.sae);
        const std::vector<double> wide = test::widen(x);
        const std::vector<double> z = reference::pre_activations(sae, wide, rows);
        Mask mask(rows * width, 0);
        for (const Pair& pair : test::codes_of(training.device)) mask[pair.row * width + pair.latent] = 1;
        const std::vector<double> error = reference::error_of(sae, wide, z, mask, rows);
        double cosine = 0;
        for (std::size_t b = 0; b < rows; ++b) {
            double xx = 0, xh = 0, hh = 0;
            for (std::size_t i = b * n; i < (b + 1) * n; ++i) {
                xx += wide[i] * wide[i];
                xh += wide[i] * (wide[i] - error[i]);
                hh += (wide[i] - error[i]) * (wide[i] - error[i]);
            }
            if (xx > 0 && hh > 0) cosine += xh / std::sqrt(xx * hh);
        }
        EXPECT_NEAR(report.sums.cosine / rows, cosine / rows, 1e-3) << length;
    }
}

}  // namespace
}  // namespace strata
