// What the steps of a kind must not depend on: the number of threads, and, but for roundings, whether they
// are made of lists of pairs or of dense products.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "comm/self.h"
#include "support/kinds.h"
#include "train/pass.h"

namespace strata {
namespace {

using reference::Sae;
using test::Form;
using test::KindCase;
using test::Training;

// So many that the dense form takes several blocks of rows and several tiles of latents, and accumulate()
// several groups of latents.
constexpr std::size_t many_rows = 600, many_latents = 1100, n = KindCase::n;

// With many latents, and prefixes whose ends are no multiple of a tile.
KindCase widened(KindCase c) {
    c.config.width = many_latents;
    if (!c.config.prefixes.empty()) c.config.prefixes = {7, 600, 1001};
    return c;
}

class KindBits : public testing::TestWithParam<KindCase> {
  protected:
    const std::unique_ptr<Communicator> self = make_self_communicator();

    std::uint64_t state_after(const KindCase& c, std::size_t rows, int steps, Form form, int threads) {
        Training training(*self, test::start_of(c), c.config, static_cast<std::int64_t>(rows),
                          KindCase::mean_square, c.options(threads));
        for (int t = 0; t < steps; ++t) {
            training.set_form(form);
            const test::Rows batch = test::rows_of(c, t, rows);
            training.step(batch.x, batch.target, 0, static_cast<std::int64_t>(rows), test::optimizer_at(t), t,
                          KindCase::lr);
        }
        return training.state_bits();
    }
};

TEST_P(KindBits, DoNotDependOnTheNumberOfThreads) {
    const KindCase& c = GetParam();
    for (const Form form : {Form::lists, Form::ranges, Form::dense}) {
        if (c.selects() && form != Form::lists) continue;
        const std::uint64_t expected = state_after(c, KindCase::rows, 6, form, 1);
        for (const int threads : {2, 3, 5})
            EXPECT_EQ(state_after(c, KindCase::rows, 6, form, threads), expected)
                << threads << ", " << test::name_of(form);
    }
}

INSTANTIATE_TEST_SUITE_P(With, KindBits, testing::ValuesIn(test::kind_cases()), test::name_of_case);

class LargeKindBits : public KindBits {};

TEST_P(LargeKindBits, DoNotDependOnTheNumberOfThreads) {
    const KindCase c = widened(GetParam());
    for (const Form form : {Form::lists, Form::ranges, Form::dense}) {
        if (c.selects() && form != Form::lists) continue;
        const std::uint64_t expected = state_after(c, many_rows, 4, form, 1);
        for (const int threads : {2, 3, 5})
            EXPECT_EQ(state_after(c, many_rows, 4, form, threads), expected)
                << threads << ", " << test::name_of(form);
    }
}

std::vector<KindCase> with_all_options() {
    std::vector<KindCase> all = test::kind_cases();
    std::erase_if(all, [](const KindCase& c) { return !c.name.ends_with("_all"); });
    return all;
}
INSTANTIATE_TEST_SUITE_P(With, LargeKindBits, testing::ValuesIn(with_all_options()), test::name_of_case);

class Forms : public KindBits {
  protected:
    // With lists of the whole batch, from the same state at every step.
    void agree(Form form) {
        const KindCase c = widened(GetParam());
        const auto rows = static_cast<std::int64_t>(many_rows);
        const Sae<float> start = test::start_of(c);
        Training lists(*self, start, c.config, rows, KindCase::mean_square, c.options());
        Training other(*self, start, c.config, rows, KindCase::mean_square, c.options());
        double worst_loss = 0, worst_gradient = 0, worst_average = 0;
        bool masked = false;
        std::int64_t resampled = 0;
        for (int t = 0; t < 6; ++t) {
            SCOPED_TRACE(t);
            other.take_over(lists);
            const test::Rows batch = test::clear_rows_of(c, t, lists.parameters(), many_rows, 3e-7);
            const auto step = [&](Training& training, Form by) {
                training.set_form(by);
                return training.step(batch.x, batch.target, 0, rows, test::optimizer_at(t), t, KindCase::lr);
            };
            const train::StepReport a = step(lists, Form::lists), b = step(other, form);
            ASSERT_FALSE(a.dense);
            ASSERT_EQ(b.dense, form == Form::dense);
            EXPECT_EQ(a.sums.active, b.sums.active);
            EXPECT_EQ(test::codes_of(lists.device).size(), a.sums.active);
            if (form == Form::ranges) {
                EXPECT_LT(test::codes_of(other.device).size(), a.sums.active * 2 / 3) << "of the last range";
            }
            EXPECT_EQ(lists.sae.density, other.sae.density);
            EXPECT_EQ(lists.sae.silent, other.sae.silent);
            EXPECT_EQ(a.resampled, b.resampled);
            EXPECT_EQ(a.codes.count, b.codes.count);
            for (const auto& [found, expected] :
                 {std::pair(b.sums.squared_error, a.sums.squared_error),
                  std::pair(b.sums.prefix_error, a.sums.prefix_error), std::pair(b.sums.l1, a.sums.l1),
                  std::pair(b.sums.cosine, a.sums.cosine), std::pair(b.penalty, a.penalty),
                  std::pair(b.gradient_norm, a.gradient_norm),
                  std::pair(b.atm.masked_share, a.atm.masked_share)}) {
                EXPECT_NEAR(found, expected, 2e-6 * std::abs(expected));
                if (expected != 0) worst_loss = std::max(worst_loss, std::abs(found / expected - 1));
            }
            for (const auto& [found, expected] :
                 {std::pair(&other.sae.atm.activation, &lists.sae.atm.activation),
                  std::pair(&other.sae.atm.frequency, &lists.sae.atm.frequency),
                  std::pair(&other.sae.atm.contribution, &lists.sae.atm.contribution)})
                worst_average = std::max(worst_average, test::relative_difference(*found, *expected));
            const Sae<float> found = other.gradient(), expected = lists.gradient();
            for (int i = 0; i < Sae<float>::tensors; ++i)
                worst_gradient =
                    std::max(worst_gradient, test::relative_difference(found.tensor(i), expected.tensor(i)));
            masked = masked || a.atm.masked_share > 0;
            resampled += a.resampled;
        }
        EXPECT_LT(worst_gradient, 1e-5);
        EXPECT_LT(worst_average, 1e-5);
        EXPECT_EQ(masked, c.config.atm.has_value());
        EXPECT_EQ(resampled > 0, c.config.resample_every > 0);
        RecordProperty(fmt::format("loss_{}", test::name_of(form)), fmt::format("{:.2e}", worst_loss));
        RecordProperty(fmt::format("gradient_{}", test::name_of(form)),
                       fmt::format("{:.2e}", worst_gradient));
        RecordProperty(fmt::format("average_{}", test::name_of(form)), fmt::format("{:.2e}", worst_average));
    }
};

TEST_P(Forms, RangesOfRowsMakeTheSameStep) {
    agree(Form::ranges);
}

TEST_P(Forms, DenseProductsMakeTheSameStep) {
    agree(Form::dense);
}

std::vector<KindCase> of_both_forms() {
    std::vector<KindCase> all = test::elementwise_cases();
    std::erase_if(all, [](const KindCase& c) {
        return !c.name.ends_with("_all") && !c.name.ends_with("_masked_latents");
    });
    return all;
}
INSTANTIATE_TEST_SUITE_P(With, Forms, testing::ValuesIn(of_both_forms()), test::name_of_case);

TEST(FormOfAStep, FollowsTheShareOfActivePairs) {
    const std::unique_ptr<Communicator> self = make_self_communicator();
    KindCase c = test::elementwise_cases().front();
    ASSERT_EQ(c.config.kind, "relu");
    c = widened(c);
    const auto rows = static_cast<std::int64_t>(many_rows);
    Sae<float> start = test::start_of(c);
    Training training(*self, start, c.config, rows, KindCase::mean_square, c.options());
    const auto step = [&](int t) {
        const test::Rows batch = test::rows_of(c, t, many_rows);
        const train::StepReport report = training.step(batch.x, 0, rows, test::optimizer_at(t), t, 0);
        EXPECT_EQ(training.sae.density,
                  static_cast<double>(report.sums.active) / static_cast<double>(many_rows * many_latents));
        return report.dense;
    };
    EXPECT_TRUE(step(0)) << "nothing is known before the first step";
    EXPECT_GT(training.sae.density, 0.3);
    training.sae.density = 0;
    EXPECT_FALSE(step(1)) << "nothing is known of this step";
    EXPECT_TRUE(step(2));
    for (float& b : start.b_enc) b -= 0.5F;
    training.restart(start);
    EXPECT_TRUE(step(3));
    EXPECT_LT(training.sae.density, sae::dense_share(training.sae.parameters, false));
    EXPECT_FALSE(step(4));
}

// A limit below what a handful of rows has active: the ranges are halved down to the shortest there are.
TEST(FormOfAStep, RangesAreHalvedUntilTheirListsHaveRoom) {
    const std::unique_ptr<Communicator> self = make_self_communicator();
    KindCase c = test::elementwise_cases().front();
    const auto rows = static_cast<std::int64_t>(KindCase::rows);
    Training training(*self, test::start_of(c), c.config, rows, KindCase::mean_square, c.options());
    const test::Rows batch = test::rows_of(c, 0);
    for (const std::int64_t room : {1, 700, 1 << 22}) {
        training.sae.density = 0;
        training.bench.list_pairs = room;
        const train::StepReport report = training.step(batch.x, 0, rows, test::optimizer_at(0), 0, 0);
        std::size_t in_range = 0;  // rows of the last one
        std::uint32_t row = ~0U;
        for (const test::Pair& pair : test::codes_of(training.device))
            if (pair.row != row) {
                row = pair.row;
                ++in_range;
            }
        EXPECT_EQ(in_range, room == 1 ? device::range_rows : room == 700 ? 12 : rows) << room;
        EXPECT_GT(report.sums.active, 700 * 2);
    }
}

}  // namespace
}  // namespace strata
