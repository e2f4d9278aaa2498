// Training on several ranks, in every division of them, against the same training on one, which every rank
// does for itself beside it. Run at 1, 2, 3 and 4 ranks.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "comm/mpi.h"
#include "comm/self.h"
#include "support/divisions.h"
#include "support/problem.h"
#include "support/training.h"
#include "train/step.h"

namespace strata {
namespace {

using test::Awkward;
using test::make_batch;
using test::make_config;
using test::Pair;
using test::Training;

constexpr std::size_t rows = 61, n = 20, width = 150;
constexpr int steps = 50;

struct Case {
    const char* name;
    const char* kind;
    Awkward awkward = Awkward::none;
    std::int64_t row_cap = 0;
    bool first_rank_idle = false;  // no lane of the stream is its
    double k = 4;
    int group_size = 0;  // of ranks that share memory; 0: those of the host
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << c.name << ", groups of " << c.group_size;
}

class Distributed : public testing::TestWithParam<Case> {
  protected:
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    const std::unique_ptr<Communicator> self = make_self_communicator();

    Training::Options options(int threads = 1, bool overlap = false) const {
        return {.threads = threads, .overlap = overlap, .group_size = GetParam().group_size};
    }

    std::int64_t first_row(int rank) const {
        return test::first_row(rows, rank, comm->size(), GetParam().first_rank_idle);
    }
    std::int64_t first() const { return first_row(comm->rank()); }
    std::int64_t last() const { return first_row(comm->rank() + 1); }

    SaeConfig config() const {
        SaeConfig config = make_config(GetParam().kind, width, GetParam().k);
        config.row_cap = GetParam().row_cap;
        config.aux_k = 5;
        config.aux_coefficient = 0.25;
        config.dead_after_tokens = 2 * rows;
        return config;
    }

    // Every third latent cannot fire, so that the auxiliary term has work.
    static reference::Sae<float> start(Awkward awkward) {
        reference::Sae<float> sae =
            test::make_problem(rows, n, width,
                               awkward == Awkward::equal_rows ? Awkward::equal_latents : Awkward::none)
                .sae;
        for (std::size_t j = 0; j < width; j += 3) sae.b_enc[j] -= j % 2 == 0 ? 0.4F : 3.0F;
        return sae;
    }

    std::vector<float> batch(int step) const { return make_batch(rows, n, step, GetParam().awkward); }

    // The codes of this rank's rows.
    std::vector<Pair> slice(const std::vector<Pair>& all) const {
        std::vector<Pair> mine;
        for (Pair pair : all) {
            if (pair.row < first() || pair.row >= last()) continue;
            pair.row -= static_cast<std::uint32_t>(first());
            mine.push_back(pair);
        }
        return mine;
    }

    static bool same_places(const std::vector<Pair>& a, const std::vector<Pair>& b) {
        return std::ranges::equal(
            a, b, [](const Pair& p, const Pair& q) { return p.row == q.row && p.latent == q.latent; });
    }

    double sum(double value) {
        comm->sum(std::span(&value, 1));
        return value;
    }
};

// Where the parameters are the same, so are threshold, selection and dead latents, bit for bit, and the
// gradient to rounding: before each step the ranks take over the state of the single one.
TEST_P(Distributed, AStepFromTheSameStateIsTheSame) {
    const reference::Sae<float> begin = start(GetParam().awkward);
    Training alone(*self, begin, config(), rows, 1.1, {.threads = 1, .reference = true});
    Training mine(*comm, begin, config(), rows, 1.1, options());
    bool helped = false;
    double worst_gradient = 0, worst_loss = 0;
    for (int t = 0; t < steps; ++t) {
        SCOPED_TRACE(t);
        ASSERT_EQ(mine.sae.silent, alone.sae.silent);
        mine.take_over(alone);

        const std::vector<float> x = batch(t);
        const train::StepReport expected = alone.step(x, OptimizerConfig{}, t, 3e-3);
        const train::StepReport found = mine.step(x, first(), last(), OptimizerConfig{}, t, 3e-3);
        EXPECT_EQ(found.threshold, expected.threshold);
        EXPECT_EQ(found.dead, expected.dead);
        ASSERT_EQ(test::codes_of(mine.device), slice(test::codes_of(alone.device)));
        if (expected.auxiliary_loss > 0) {
            ASSERT_EQ(test::codes_of(mine.device, device::CodeSet::auxiliary),
                      slice(test::codes_of(alone.device, device::CodeSet::auxiliary)));
        }
        const double squared_error = sum(found.sums.squared_error);
        worst_loss = std::max(
            {worst_loss, std::abs(squared_error / expected.sums.squared_error - 1),
             std::abs(found.auxiliary_loss - expected.auxiliary_loss) / (1e-30 + expected.auxiliary_loss)});
        EXPECT_NEAR(found.gradient_norm, expected.gradient_norm, 1e-5 * expected.gradient_norm);
        const reference::Sae<float> gradient = mine.gradient();
        const reference::Sae<float> expected_gradient = alone.gradient();
        for (int i = 0; i < reference::Sae<float>::tensors; ++i)
            worst_gradient = std::max(
                worst_gradient, test::relative_difference(gradient.tensor(i), expected_gradient.tensor(i)));
        EXPECT_TRUE(mine.replicas_agree());
        helped = helped || expected.auxiliary_loss > 0;
    }
    EXPECT_TRUE(helped);
    EXPECT_LT(worst_gradient, 1e-5);
    EXPECT_LT(worst_loss, 1e-6);
    RecordProperty("gradient", fmt::format("{:.2e}", worst_gradient));
    RecordProperty("loss", fmt::format("{:.2e}", worst_loss));
}

// Left to themselves, the two runs stay together: the same pairs selected and the same latents dead in every
// step.
TEST_P(Distributed, FiftyStepsStayWithTheSingleRank) {
    if (GetParam().awkward == Awkward::equal_rows)
        return;  // ties between equal latents part with the roundings
    const reference::Sae<float> begin = start(GetParam().awkward);
    Training alone(*self, begin, config(), rows, 1.1, {.threads = 1, .reference = true});
    Training mine(*comm, begin, config(), rows, 1.1, options());
    double worst_loss = 0;
    for (int t = 0; t < steps; ++t) {
        SCOPED_TRACE(t);
        const std::vector<float> x = batch(t);
        const train::StepReport expected = alone.step(x, OptimizerConfig{}, t, 1e-3);
        const train::StepReport found = mine.step(x, first(), last(), OptimizerConfig{}, t, 1e-3);
        if (t == 0) {
            EXPECT_EQ(found.threshold, expected.threshold);
        }
        EXPECT_NEAR(found.threshold, expected.threshold, 1e-5 * expected.threshold);
        ASSERT_TRUE(same_places(test::codes_of(mine.device), slice(test::codes_of(alone.device))));
        ASSERT_EQ(mine.sae.silent, alone.sae.silent);
        const double loss = sum(found.sums.squared_error) / rows + found.auxiliary_loss;
        worst_loss = std::max(
            worst_loss, std::abs(loss / (expected.sums.squared_error / rows + expected.auxiliary_loss) - 1));
        ASSERT_TRUE(mine.replicas_agree()) << "the replicas parted";
    }
    const reference::Sae<float> parameters = mine.parameters();
    const reference::Sae<float> expected = alone.parameters();
    double worst_parameter = 0;
    for (int i = 0; i < reference::Sae<float>::tensors; ++i)
        worst_parameter =
            std::max(worst_parameter, test::relative_difference(parameters.tensor(i), expected.tensor(i)));
    EXPECT_LT(worst_loss, 1e-5);
    EXPECT_LT(worst_parameter, 1e-3);
    RecordProperty("loss", fmt::format("{:.2e}", worst_loss));
    RecordProperty("parameter", fmt::format("{:.2e}", worst_parameter));
}

TEST_P(Distributed, OverlapAndThreadsChangeNoBit) {
    const reference::Sae<float> begin = start(GetParam().awkward);
    const auto state = [&](int threads, bool overlap) {
        Training mine(*comm, begin, config(), rows, 1.1, options(threads, overlap));
        for (int t = 0; t < 5; ++t) mine.step(batch(t), first(), last(), OptimizerConfig{}, t, 3e-3);
        return mine.state_bits();
    };
    const std::uint64_t expected = state(1, false);
    EXPECT_EQ(state(1, true), expected);
    EXPECT_EQ(state(2, true), expected);
}

std::vector<Case> cases() {
    std::vector<Case> all;
    for (const Case& c :
         {Case{"topk", "topk"}, Case{"batch_topk", "batch_topk"},
          Case{"batch_topk_fractional", "batch_topk", Awkward::none, 0, false, 2.7},
          Case{"batch_topk_ties_across_ranks", "batch_topk", Awkward::equal_rows},
          Case{"topk_ties", "topk", Awkward::equal_rows},
          Case{"batch_topk_capped_outliers", "batch_topk", Awkward::outliers, 2},
          Case{"batch_topk_fewer_positive_than_asked", "batch_topk", Awkward::none, 0, false, 140},
          Case{"batch_topk_idle_rank", "batch_topk", Awkward::none, 0, true},
          Case{"topk_idle_rank", "topk", Awkward::none, 0, true}})
        for (const int group_size : test::divisions()) {
            all.push_back(c);
            all.back().group_size = group_size;
        }
    return all;
}
INSTANTIATE_TEST_SUITE_P(Steps, Distributed, testing::ValuesIn(cases()), [](const auto& info) {
    return fmt::format("{}_{}", info.param.name, test::name_of_division(info.param.group_size));
});

// Where memory is shared each rank updates its part, and all of them see the whole.
TEST(DistributedReplicas, DivideTheLatents) {
    const auto comm = make_mpi_communicator();
    for (const int group_size : test::divisions()) {
        const train::Replicas replicas(*comm, group_size);
        EXPECT_EQ(replicas.group->size(), group_size == 0 ? comm->size() : group_size);
        EXPECT_EQ(replicas.across->size() * replicas.group->size(), comm->size());
        for (const std::int64_t latents : {1, 2, 7, 150}) {
            std::vector<std::uint64_t> updated(static_cast<std::size_t>(latents)), saved(updated);
            const train::Slice mine = replicas.updated(latents), share = replicas.saved(latents);
            EXPECT_LE(mine.first, share.first);
            EXPECT_LE(share.last, mine.last);
            for (std::int64_t j = mine.first; j < mine.last; ++j) ++updated[static_cast<std::size_t>(j)];
            for (std::int64_t j = share.first; j < share.last; ++j) ++saved[static_cast<std::size_t>(j)];
            replicas.group->sum(updated);
            comm->sum(saved);
            EXPECT_EQ(updated, std::vector<std::uint64_t>(updated.size(), 1));
            EXPECT_EQ(saved, std::vector<std::uint64_t>(saved.size(), 1));
        }
    }
}

// An error of one rank's rows reaches all through the sum of gradients, in the same step.
TEST(DistributedErrors, ABadRowOnOneRankStopsAll) {
    const auto comm = make_mpi_communicator();
    for (int culprit = 0; culprit < comm->size(); ++culprit) {
        Training mine(*comm, test::make_problem(8, n, width).sae, make_config("batch_topk", width, 4),
                      8 * comm->size(), 1, {.threads = 1});
        std::vector<float> x = make_batch(8 * static_cast<std::size_t>(comm->size()), n, 0);
        x[static_cast<std::size_t>(culprit) * 8 * n + 3] = std::numeric_limits<float>::quiet_NaN();
        EXPECT_THROW(mine.step(x, comm->rank() * 8, comm->rank() * 8 + 8, OptimizerConfig{}, 0, 0.01),
                     RunError);
    }
}

}  // namespace
}  // namespace strata
