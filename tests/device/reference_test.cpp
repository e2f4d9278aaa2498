// The reference against finite differences of its own loss, in double: what it says is a gradient is one.

#include "support/reference.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "support/problem.h"

namespace strata {
namespace {

using reference::Auxiliary;
using reference::Mask;
using reference::Sae;

struct Case {
    const char* name;
    bool batch_rule;
    bool with_auxiliary;
    test::Awkward awkward;
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << c.name;
}

class ReferenceGradient : public testing::TestWithParam<Case> {};

// The selection, e and its variance stay as they are at the point where the gradient is taken.
TEST_P(ReferenceGradient, IsTheDerivativeOfTheLossInEveryParameter) {
    const Case& c = GetParam();
    const std::size_t rows = 7;
    const test::Problem p = test::make_problem(rows, 5, 12, c.awkward);
    Sae<double> sae(p.sae);
    const std::vector<double> x = test::widen(p.x);
    const std::vector<double> z = reference::pre_activations(sae, x, rows);
    const Mask mask = c.batch_rule ? reference::select_batch_top(z, rows, sae.width, 17)
                                   : reference::select_row_top(z, rows, sae.width, 3);
    Auxiliary<double> auxiliary;
    if (c.with_auxiliary) {
        reference::StepRules rules;
        rules.aux_k = 2;
        rules.aux_coefficient = 0.5;
        rules.mean_square = 1.7;
        const std::vector<std::uint32_t> dead = {1, 4, 5, 9, 11};
        auxiliary = reference::freeze_auxiliary(sae, x, z, mask, dead, rules, rows);
        ASSERT_GT(auxiliary.weight, 0);
        ASSERT_GT(reference::auxiliary_loss(sae, z, auxiliary, rows), 0);
    }
    const Sae<double> gradient = reference::gradient_of(sae, x, mask, auxiliary, rows);
    double worst = 0;
    for (int i = 0; i < 4; ++i) {
        std::vector<double> differences;
        for (double& value : sae.tensor(i)) {
            const double at = value;
            const double h = 1e-4;
            value = at + h;
            const double above = reference::loss_of(sae, x, mask, auxiliary, rows);
            value = at - h;
            const double below = reference::loss_of(sae, x, mask, auxiliary, rows);
            value = at;
            differences.push_back((above - below) / (2 * h));
        }
        ASSERT_GT(test::largest(gradient.tensor(i)), 1e-3) << "nothing to compare";
        const double error = test::relative_difference(gradient.tensor(i), differences);
        EXPECT_LT(error, 1e-7) << Sae<double>::names[i];
        worst = std::max(worst, error);
    }
    RecordProperty("worst", fmt::format("{:.2e}", worst));
}

INSTANTIATE_TEST_SUITE_P(
    Rules, ReferenceGradient,
    testing::Values(Case{"topk", false, false, test::Awkward::none},
                    Case{"topk_auxiliary", false, true, test::Awkward::none},
                    Case{"batch", true, false, test::Awkward::none},
                    Case{"batch_auxiliary", true, true, test::Awkward::none},
                    Case{"batch_auxiliary_equal_latents", true, true, test::Awkward::equal_latents},
                    Case{"batch_auxiliary_zero_rows", true, true, test::Awkward::zero_rows}),
    [](const auto& info) { return info.param.name; });

TEST(Reference, SelectionBreaksTiesByRowThenLatent) {
    const std::vector<double> z = {1, 2, 2, -1,  //
                                   2, 0, 3, 2};
    EXPECT_EQ(reference::select_row_top(z, 2, 4, 2), (Mask{0, 1, 1, 0, 1, 0, 1, 0}));
    EXPECT_EQ(reference::select_row_top(z, 2, 4, 9), (Mask{1, 1, 1, 0, 1, 0, 1, 1}));
    EXPECT_EQ(reference::select_row_top(z, 2, 4, 1, {0, 3}), (Mask{1, 0, 0, 0, 1, 0, 0, 0}));
    EXPECT_EQ(reference::select_batch_top(z, 2, 4, 3), (Mask{0, 1, 1, 0, 0, 0, 1, 0}));
    EXPECT_EQ(reference::select_batch_top(z, 2, 4, 4, 1), (Mask{0, 1, 0, 0, 0, 0, 1, 0}));
    EXPECT_EQ(reference::select_batch_top(z, 2, 4, 99), (Mask{1, 1, 1, 0, 1, 0, 1, 1}));
}

}  // namespace
}  // namespace strata
