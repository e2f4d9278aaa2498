// Steps of every kind on several ranks, in every division of them, against the same steps on one, which every
// rank takes beside it. Run at 1, 2, 3 and 4 ranks.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "comm/mpi.h"
#include "comm/self.h"
#include "support/divisions.h"
#include "support/kinds.h"

namespace strata {
namespace {

using device::CodeSet;
using reference::Sae;
using test::Form;
using test::KindCase;
using test::Pair;
using test::Training;

constexpr std::int64_t rows = KindCase::rows;
constexpr std::size_t width = KindCase::width;
constexpr int steps = 7;  // two resamplings, masks while they rise and after

struct Case {
    KindCase kind;
    int group_size = 0;
    bool first_rank_idle = false;
    Form form = Form::lists;
    std::int64_t rows_at_once = 0;  // micro-batches; 0: all
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << c.kind.name;
}

class DistributedKinds : public testing::TestWithParam<Case> {
  protected:
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    const std::unique_ptr<Communicator> self = make_self_communicator();
    const KindCase& kind = GetParam().kind;

    std::int64_t first_row(int rank) const {
        return test::first_row(rows, rank, comm->size(), GetParam().first_rank_idle);
    }
    std::int64_t first() const { return first_row(comm->rank()); }
    std::int64_t last() const { return first_row(comm->rank() + 1); }

    Training::Options options() const {
        Training::Options options = kind.options(1);
        options.group_size = GetParam().group_size;
        options.rows_at_once = GetParam().rows_at_once;
        return options;
    }

    train::StepReport step(Training& mine, const test::Rows& batch, int t) const {
        mine.set_form(GetParam().form);
        return mine.step(batch.x, batch.target, first(), last(), test::optimizer_at(t), t, KindCase::lr);
    }

    std::vector<Pair> slice(const std::vector<Pair>& all) const {
        std::vector<Pair> mine;
        for (Pair pair : all) {
            if (pair.row < first() || pair.row >= last()) continue;
            pair.row -= static_cast<std::uint32_t>(first());
            mine.push_back(pair);
        }
        return mine;
    }

    // The codes of all rows and sets that the step made, bit for bit; of micro-batches those that are there.
    void expect_same_codes(Training& mine, Training& alone, bool masked, bool helped) const {
        const bool whole = GetParam().rows_at_once == 0;
        if (!whole && !kind.selects()) return;
        std::vector<CodeSet> sets = {CodeSet::main};
        if (masked) sets.push_back(CodeSet::observed);
        if (helped && whole) sets.push_back(CodeSet::auxiliary);
        if (kind.config.kind == "jumprelu") sets.push_back(CodeSet::window);
        if (kind.config.kind == "gated") sets.push_back(CodeSet::gate);
        for (const CodeSet set : sets)
            EXPECT_EQ(test::codes_of(mine.device, set), slice(test::codes_of(alone.device, set)))
                << static_cast<int>(set);
    }

    double sum(double value) const {
        comm->sum(std::span(&value, 1));
        return value;
    }

    static void expect_near(double& worst, const char* what, double found, double expected) {
        if (found == expected) return;
        const double error = std::abs(found - expected) / std::abs(expected);
        EXPECT_LT(error, 1e-5) << what << ": " << found << ", expected " << expected;
        worst = std::max(worst, error);
    }

    static void expect_near(double& worst, double allowed, const Sae<float>& found,
                            const Sae<float>& expected) {
        for (int i = 0; i < Sae<float>::tensors; ++i) {
            const double error = test::relative_difference(found.tensor(i), expected.tensor(i));
            EXPECT_LT(error, allowed) << Sae<float>::names[i];
            worst = std::max(worst, error);
        }
    }
};

// From the state of the single rank: the same pairs, masks, counters and resampled latents, and the rest to
// the roundings of another order of summation.
TEST_P(DistributedKinds, AStepFromTheSameStateIsTheSame) {
    const Sae<float> start = test::start_of(kind);
    Training::Options on_cpu = kind.options(1);
    on_cpu.reference = true;
    Training alone(*self, start, kind.config, rows, KindCase::mean_square, on_cpu);
    Training mine(*comm, start, kind.config, rows, KindCase::mean_square, options());
    double worst_loss = 0, worst_gradient = 0, worst_parameter = 0, worst_average = 0;
    bool masked = false, helped = false;
    std::int64_t resampled = 0;
    for (int t = 0; t < steps; ++t) {
        SCOPED_TRACE(t);
        ASSERT_EQ(mine.sae.silent, alone.sae.silent);
        mine.take_over(alone);
        alone.set_form(GetParam().form);
        const test::Rows batch = test::clear_rows_of(kind, t, alone.parameters());
        const train::StepReport expected =
            alone.step(batch.x, batch.target, 0, rows, test::optimizer_at(t), t, KindCase::lr);
        const train::StepReport found = step(mine, batch, t);
        EXPECT_EQ(found.dense, expected.dense);
        EXPECT_EQ(found.threshold, expected.threshold);
        EXPECT_EQ(found.dead, expected.dead);
        EXPECT_EQ(found.resampled, expected.resampled);
        EXPECT_EQ(mine.sae.resampled_at, alone.sae.resampled_at);
        EXPECT_EQ(mine.sae.silent, alone.sae.silent);
        EXPECT_EQ(mine.sae.density, alone.sae.density);
        std::vector<double> counts = found.codes.count;
        comm->sum(counts);
        EXPECT_EQ(counts, expected.codes.count);
        if (GetParam().form == Form::lists)
            expect_same_codes(mine, alone, expected.atm.masked_share > 0, expected.auxiliary_loss > 0);

        expect_near(worst_loss, "squared error", sum(found.sums.squared_error), expected.sums.squared_error);
        expect_near(worst_loss, "over prefixes", sum(found.sums.prefix_error), expected.sums.prefix_error);
        expect_near(worst_loss, "l1", sum(found.sums.l1), expected.sums.l1);
        expect_near(worst_loss, "auxiliary", found.auxiliary_loss, expected.auxiliary_loss);
        expect_near(worst_loss, "penalty", found.penalty, expected.penalty);
        expect_near(worst_loss, "gradient norm", found.gradient_norm, expected.gradient_norm);
        expect_near(worst_loss, "threshold of importance", found.atm.threshold, expected.atm.threshold);
        expect_near(worst_loss, "mean probability", found.atm.mean_probability,
                    expected.atm.mean_probability);
        EXPECT_NEAR(found.atm.masked_share, expected.atm.masked_share, 1e-12);
        EXPECT_EQ(mine.sae.atm.steps, alone.sae.atm.steps);
        const train::AtmState &a = mine.sae.atm, &b = alone.sae.atm;
        for (const auto& [average, other] :
             {std::pair(&a.activation, &b.activation), std::pair(&a.frequency, &b.frequency),
              std::pair(&a.contribution, &b.contribution)}) {
            const double error = test::relative_difference(*average, *other);
            EXPECT_LT(error, 1e-5);
            worst_average = std::max(worst_average, error);
        }
        const Sae<float> gradient = mine.gradient(), expected_gradient = alone.gradient();
        expect_near(worst_gradient, 1e-5, gradient, expected_gradient);
        // Ranks that share memory add a latent's rows in the order of the one rank.
        if (GetParam().form == Form::lists && GetParam().rows_at_once == 0 && mine.replicas.share_memory() &&
            mine.replicas.across->size() == 1) {
            EXPECT_EQ(test::bits_of(gradient.w_enc), test::bits_of(expected_gradient.w_enc));
            EXPECT_EQ(test::bits_of(gradient.w_dec), test::bits_of(expected_gradient.w_dec));
        }
        expect_near(worst_parameter, 2e-5, mine.parameters(), alone.parameters());
        EXPECT_TRUE(mine.replicas_agree()) << "the replicas parted";
        masked = masked || expected.atm.masked_share > 0;
        helped = helped || expected.auxiliary_loss > 0;
        resampled += expected.resampled;
        // All ranks stop together, and the rest follows from it.
        if (sum(HasFailure() ? 1 : 0) > 0) break;
    }
    EXPECT_EQ(masked, kind.config.atm.has_value());
    EXPECT_EQ(helped, kind.config.aux_k > 0);
    EXPECT_EQ(resampled > 0, kind.config.resample_every > 0);
    RecordProperty("loss", fmt::format("{:.2e}", worst_loss));
    RecordProperty("gradient", fmt::format("{:.2e}", worst_gradient));
    RecordProperty("parameter", fmt::format("{:.2e}", worst_parameter));
    RecordProperty("average", fmt::format("{:.2e}", worst_average));
}

// Selection among the rows of each rank: what one rank computes is then another thing.
class DistributedLocalThresholds : public DistributedKinds {};

TEST_P(DistributedLocalThresholds, StepsAreThoseOfTheReference) {
    const Sae<float> start = test::start_of(kind);
    Training mine(*comm, start, kind.config, rows, KindCase::mean_square, options());
    reference::Trained<double> expected{Sae<double>(start)};
    std::vector<std::size_t> rank_rows;
    for (int r = 0; r < comm->size(); ++r)
        rank_rows.push_back(static_cast<std::size_t>(first_row(r + 1) - first_row(r)));
    std::int64_t resampled_at = -1;
    double worst = 0;
    for (int t = 0; t < steps; ++t) {
        SCOPED_TRACE(t);
        const Sae<float> before = mine.parameters();
        comm->barrier();  // before a rank goes on to change them
        expected.sae = Sae<double>(before);
        const test::Rows batch = test::clear_rows_of(kind, t, before);
        const train::StepReport report = step(mine, batch, t);
        const reference::StepResult<double> result =
            test::reference_step(kind, expected, batch, resampled_at, rank_rows);
        std::vector<Pair> codes = test::codes_of(mine.device);
        reference::Mask mask(static_cast<std::size_t>(last() - first()) * width, 0);
        for (const Pair& pair : codes) mask[pair.row * width + pair.latent] = 1;
        const auto begin = result.mask.begin() + first() * static_cast<std::ptrdiff_t>(width);
        EXPECT_TRUE(std::equal(mask.begin(), mask.end(), begin));
        EXPECT_EQ(mine.sae.silent, expected.silent);
        expect_near(worst, "squared error", sum(report.sums.squared_error), result.squared_error);
        expect_near(worst, "auxiliary", report.auxiliary_loss, result.losses.auxiliary);
        const Sae<float> parameters = mine.parameters();
        for (int i = 0; i < Sae<float>::tensors; ++i)
            EXPECT_LT(test::relative_difference(parameters.tensor(i), expected.sae.tensor(i)), 2e-5)
                << Sae<float>::names[i];
        EXPECT_TRUE(mine.replicas_agree()) << "the replicas parted";
        if (sum(HasFailure() ? 1 : 0) > 0) break;
    }
    RecordProperty("loss", fmt::format("{:.2e}", worst));
}

bool is_local(const KindCase& kind) {
    return kind.config.threshold_scope == "local";
}

// Ranks that share memory go through their rows together.
bool takes_micro_batches(int group_size, int ranks) {
    return ranks == 1 || (ranks == 2 && (group_size == 1 || !test::shares_memory));
}

std::vector<Case> cases(bool local) {
    std::vector<Case> all;
    const int ranks = make_mpi_communicator()->size();
    for (const KindCase& kind : test::kind_cases()) {
        if (is_local(kind) != local) continue;
        for (const int group_size : test::divisions())
            for (const Form form : {Form::lists, Form::ranges, Form::dense}) {
                // A rank without rows, where everything is on; and every form at any number of ranks.
                const bool idle = kind.name.ends_with("_all");
                if (form != Form::lists && (kind.selects() || (ranks > 2 && !idle))) continue;
                all.push_back({kind, group_size, idle, form});
                if (form != Form::ranges && takes_micro_batches(group_size, ranks))
                    all.push_back({kind, group_size, idle, form, 12});
            }
    }
    return all;
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
    return fmt::format("{}_{}_{}{}", info.param.kind.name, test::name_of_division(info.param.group_size),
                       test::name_of(info.param.form), info.param.rows_at_once > 0 ? "_micro_batches" : "");
}

INSTANTIATE_TEST_SUITE_P(With, DistributedKinds, testing::ValuesIn(cases(false)), name_of);
INSTANTIATE_TEST_SUITE_P(With, DistributedLocalThresholds, testing::ValuesIn(cases(true)), name_of);

}  // namespace
}  // namespace strata
