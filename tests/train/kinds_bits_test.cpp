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

    std::uint64_t state_after(const KindCase& c, std::size_t rows, int steps, double density, int threads) {
        Training training(*self, test::start_of(c), c.config, static_cast<std::int64_t>(rows),
                          KindCase::mean_square, c.options(threads));
        for (int t = 0; t < steps; ++t) {
            training.sae.density = density;
            const test::Rows batch = test::rows_of(c, t, rows);
            training.step(batch.x, batch.target, 0, static_cast<std::int64_t>(rows), test::optimizer_at(t), t,
                          KindCase::lr);
        }
        return training.state_bits();
    }
};

TEST_P(KindBits, DoNotDependOnTheNumberOfThreads) {
    const KindCase& c = GetParam();
    for (const double density : {0.0, 1.0}) {
        if (c.selects() && density > 0) continue;
        const std::uint64_t expected = state_after(c, KindCase::rows, 6, density, 1);
        for (const int threads : {2, 3, 5})
            EXPECT_EQ(state_after(c, KindCase::rows, 6, density, threads), expected)
                << threads << (density > 0 ? ", dense" : ", lists");
    }
}

INSTANTIATE_TEST_SUITE_P(With, KindBits, testing::ValuesIn(test::kind_cases()), test::name_of_case);

class LargeKindBits : public KindBits {};

TEST_P(LargeKindBits, DoNotDependOnTheNumberOfThreads) {
    const KindCase c = widened(GetParam());
    for (const double density : {0.0, 1.0}) {
        if (c.selects() && density > 0) continue;
        const std::uint64_t expected = state_after(c, many_rows, 4, density, 1);
        for (const int threads : {2, 3, 5})
            EXPECT_EQ(state_after(c, many_rows, 4, density, threads), expected)
                << threads << (density > 0 ? ", dense" : ", lists");
    }
}

std::vector<KindCase> with_all_options() {
    std::vector<KindCase> all = test::kind_cases();
    std::erase_if(all, [](const KindCase& c) { return !c.name.ends_with("_all"); });
    return all;
}
INSTANTIATE_TEST_SUITE_P(With, LargeKindBits, testing::ValuesIn(with_all_options()), test::name_of_case);

class Forms : public KindBits {};

// From the same state at every step.
TEST_P(Forms, OfListsAndOfDenseProductsAgree) {
    const KindCase c = widened(GetParam());
    const auto rows = static_cast<std::int64_t>(many_rows);
    Sae<float> start = test::start_of(c);
    for (float& b : start.b_enc) b -= 0.25F;  // lists have room for the pairs
    Training lists(*self, start, c.config, rows, KindCase::mean_square, c.options());
    Training dense(*self, start, c.config, rows, KindCase::mean_square, c.options());
    double worst_loss = 0, worst_gradient = 0, worst_average = 0;
    bool masked = false;
    std::int64_t resampled = 0;
    for (int t = 0; t < 6; ++t) {
        SCOPED_TRACE(t);
        dense.take_over(lists);
        const test::Rows batch = test::clear_rows_of(c, t, lists.parameters(), many_rows, 3e-7);
        const auto step = [&](Training& training, double density) {
            training.sae.density = density;
            return training.step(batch.x, batch.target, 0, rows, test::optimizer_at(t), t, KindCase::lr);
        };
        const train::StepReport a = step(lists, 0), b = step(dense, 1);
        ASSERT_FALSE(a.dense);
        ASSERT_TRUE(b.dense);
        EXPECT_EQ(a.sums.active, b.sums.active);
        EXPECT_EQ(lists.sae.density, dense.sae.density);
        EXPECT_EQ(lists.sae.silent, dense.sae.silent);
        EXPECT_EQ(a.resampled, b.resampled);
        std::vector<std::uint64_t> counts(many_latents), other(counts);
        lists.device.count_codes(counts);
        dense.device.count_codes(other);
        EXPECT_EQ(counts, other);
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
             {std::pair(&dense.sae.atm.activation, &lists.sae.atm.activation),
              std::pair(&dense.sae.atm.frequency, &lists.sae.atm.frequency),
              std::pair(&dense.sae.atm.contribution, &lists.sae.atm.contribution)})
            worst_average = std::max(worst_average, test::relative_difference(*found, *expected));
        const Sae<float> found = dense.gradient(), expected = lists.gradient();
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
    RecordProperty("loss", fmt::format("{:.2e}", worst_loss));
    RecordProperty("gradient", fmt::format("{:.2e}", worst_gradient));
    RecordProperty("average", fmt::format("{:.2e}", worst_average));
}

std::vector<KindCase> of_both_forms() {
    std::vector<KindCase> all = test::elementwise_cases();
    std::erase_if(all, [](const KindCase& c) {
        return !c.name.ends_with("_all") && !c.name.ends_with("_masked_latents");
    });
    return all;
}
INSTANTIATE_TEST_SUITE_P(With, Forms, testing::ValuesIn(of_both_forms()), test::name_of_case);

// More pairs than lists have room for: the step is made of dense products, whatever the step before was.
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
    training.sae.density = 0;
    EXPECT_TRUE(step(1)) << "the lists gave up";
    EXPECT_GT(training.sae.density, 0.3);
    for (float& b : start.b_enc) b -= 0.5F;
    training.restart(start);
    EXPECT_TRUE(step(2));
    EXPECT_LT(training.sae.density, sae::dense_share);
    EXPECT_FALSE(step(3));
}

}  // namespace
}  // namespace strata
