// New starts for silent latents, where something is unusual. What is usual is held against the reference in
// kinds_test.cpp. Run at 1, 2, 3 and 4 ranks.

#include "train/resample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "comm/mpi.h"
#include "support/divisions.h"
#include "support/kinds.h"

namespace strata {
namespace {

using reference::Sae;
using test::KindCase;
using test::Training;

constexpr std::int64_t rows = KindCase::rows;
constexpr std::size_t n = KindCase::n, width = KindCase::width;

// Resampling after the second step, none of whose other work moves anything.
struct Resampling : testing::TestWithParam<std::tuple<const char*, int>> {
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    KindCase c;

    void SetUp() override {
        for (const KindCase& kind : test::kind_cases())
            if (kind.name == std::get<0>(GetParam())) c = kind;
        ASSERT_FALSE(c.name.empty());
        c.config.resample_every = 2;
    }

    // Rates are 0, so that parameters are what they were.
    train::StepReport steps(Training& training, const std::vector<std::vector<float>>& batches) {
        train::StepReport report;
        const std::int64_t first = test::first_row(rows, comm->rank(), comm->size(), false);
        const std::int64_t last = test::first_row(rows, comm->rank() + 1, comm->size(), false);
        for (std::size_t t = 0; t < batches.size(); ++t)
            report = training.step(batches[t], first, last, test::optimizer_at(static_cast<std::int64_t>(t)),
                                   static_cast<std::int64_t>(t), 0);
        return report;
    }

    Training::Options options() const {
        Training::Options options = c.options(1);
        options.group_size = std::get<1>(GetParam());
        return options;
    }

    // What the reference makes of the same two steps.
    reference::StepResult<double> expect(reference::Trained<double>& trained,
                                         const std::vector<std::vector<float>>& batches) const {
        reference::StepResult<double> result;
        for (std::size_t t = 0; t < batches.size(); ++t) {
            reference::StepRules rules = test::rules_of(c, static_cast<std::int64_t>(t));
            rules.rates.lr = 0;
            result = reference::step(trained, test::widen(batches[t]), rows, rules,
                                     test::draws_of(c, static_cast<std::int64_t>(t)));
        }
        return result;
    }

    void expect_same(Training& training, const reference::Trained<double>& trained) {
        EXPECT_EQ(training.sae.silent, trained.silent);
        const Sae<float> parameters = training.parameters();
        for (int i = 0; i < Sae<float>::tensors; ++i)
            EXPECT_LT(test::relative_difference(parameters.tensor(i), trained.sae.tensor(i)), 1e-6)
                << Sae<float>::names[i];
        EXPECT_TRUE(training.replicas_agree());
    }

    static std::vector<std::vector<float>> two_batches() {
        return {test::make_batch(rows, n, 0), test::make_batch(rows, n, 1)};
    }
};

INSTANTIATE_TEST_SUITE_P(With, Resampling,
                         testing::Combine(testing::Values("relu", "relu_free", "gated",
                                                          "relu_masked_latents"),
                                          testing::ValuesIn(test::divisions())),
                         [](const auto& info) {
                             return fmt::format("{}_{}", std::get<0>(info.param),
                                                test::name_of_division(std::get<1>(info.param)));
                         });

// Rows that are b_dec have no direction, however large their error is.
TEST_P(Resampling, RowsThatAreTheBiasAreNotDrawn) {
    const Sae<float> start = test::start_of(c);
    std::vector<std::vector<float>> batches = two_batches();
    for (std::size_t b = 0; b < static_cast<std::size_t>(rows); ++b)
        if (b % 4 != 1)
            std::ranges::copy(start.b_dec, batches[1].begin() + static_cast<std::ptrdiff_t>(b * n));
    Training training(*comm, start, c.config, rows, KindCase::mean_square, options());
    const train::StepReport report = steps(training, batches);
    reference::Trained<double> trained{Sae<double>(start)};
    const reference::StepResult<double> result = expect(trained, batches);
    EXPECT_GT(report.resampled, 10);
    EXPECT_EQ(report.resampled, std::ssize(result.resampled));
    for (const reference::Resampled& r : result.resampled) EXPECT_EQ(r.row % 4, 1U);
    expect_same(training, trained);
}

TEST_P(Resampling, WhereNoRowHasADirectionNothingIsResampled) {
    const Sae<float> start = test::start_of(c);
    std::vector<std::vector<float>> batches = two_batches();
    for (std::size_t b = 0; b < static_cast<std::size_t>(rows); ++b)
        std::ranges::copy(start.b_dec, batches[1].begin() + static_cast<std::ptrdiff_t>(b * n));
    SaeConfig held = c.config;
    held.threshold_fall = 0;
    Training training(*comm, start, held, rows, KindCase::mean_square, options());
    EXPECT_EQ(steps(training, batches).resampled, 0);
    EXPECT_EQ(training.sae.resampled_at, -1);
    const Sae<float> after = training.parameters();
    EXPECT_EQ(after.w_enc, start.w_enc);
    EXPECT_EQ(after.b_enc, start.b_enc);
    EXPECT_GT(std::ranges::max(training.sae.silent), 0U);
}

TEST_P(Resampling, AllLatentsMayStartAnew) {
    Sae<float> start = test::start_of(c);
    for (float& b : start.b_enc) b = -1e3F;
    Training training(*comm, start, c.config, rows, KindCase::mean_square, options());
    EXPECT_EQ(steps(training, two_batches()).resampled, std::ssize(start.b_enc));
    EXPECT_EQ(training.sae.resampled_at, 1);
    reference::Trained<double> trained{Sae<double>(start)};
    expect(trained, two_batches());
    expect_same(training, trained);
    EXPECT_EQ(std::ranges::max(training.sae.silent), 0U);
    const Sae<float> after = training.parameters();
    EXPECT_EQ(test::largest(after.b_enc), 0);
    EXPECT_EQ(test::largest(after.latent), 0);
}

// Silence of half of the steps between two resamplings is not yet enough.
TEST_P(Resampling, OnlyLatentsSilentForMoreThanHalfOfTheStepsStartAnew) {
    const Sae<float> start = test::start_of(c);
    Training training(*comm, start, c.config, rows, KindCase::mean_square, options());
    training.sae.density = 0;
    const std::vector<std::vector<float>> batches = two_batches();
    steps(training, {batches[0]});
    const std::vector<std::uint64_t> before = training.sae.silent;
    const std::int64_t first = test::first_row(rows, comm->rank(), comm->size(), false);
    const std::int64_t last = test::first_row(rows, comm->rank() + 1, comm->size(), false);
    const train::StepReport report = training.step(batches[1], first, last, test::optimizer_at(1), 1, 0);
    std::int64_t twice = 0, once = 0;
    const Sae<float> after = training.parameters();
    for (std::size_t j = 0; j < width; ++j) {
        const bool moved = !std::equal(after.encoder(j), after.encoder(j) + n, start.encoder(j));
        EXPECT_TRUE(!moved || before[j] == static_cast<std::uint64_t>(rows)) << j;
        twice += moved;
        once += !moved && training.sae.silent[j] == static_cast<std::uint64_t>(rows);
    }
    EXPECT_EQ(report.resampled, twice);
    EXPECT_GT(twice, 0);
    EXPECT_GT(once, 0) << "none was silent in the second step only";
}

TEST(RateAfterResampling, RisesFromATenthByHalfACosine) {
    train::TrainedSae sae;
    sae.config.resample_warmup_steps = 10;
    for (const std::int64_t step : {0, 5, 1000}) EXPECT_EQ(train::rate_after_resampling(sae, step), 1);
    sae.resampled_at = 40;
    for (std::int64_t step = 40; step < 60; ++step) {
        const double part = std::min(1.0, static_cast<double>(step - 40) / 10);
        EXPECT_NEAR(train::rate_after_resampling(sae, step),
                    1 - 0.9 * (1 + std::cos(3.14159265358979 * part)) / 2, 1e-12)
            << step;
    }
    sae.config.resample_warmup_steps = 0;
    EXPECT_EQ(train::rate_after_resampling(sae, 41), 1);
}

}  // namespace
}  // namespace strata
