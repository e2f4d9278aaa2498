// The reference against finite differences of its own losses, in double: what it says is a gradient is one,
// for every kind, every option, and options together. What is held constant, and the smoothed losses that
// stand for the steps of jumprelu, are defined in support/reference_loss.h.
//
// The table of docs/methods.md is printed by
//   device_tests --gtest_also_run_disabled_tests --gtest_filter='*TableOfErrors*'

#include "support/reference.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "support/problem.h"

namespace strata {
namespace {

using reference::Auxiliary;
using reference::Batch;
using reference::Kind;
using reference::Mask;
using reference::Point;
using reference::Sae;
using reference::StepRules;

constexpr std::size_t rows = 9, n = 5, width = 12;

// Options that a case turns on.
using Option = unsigned;
constexpr Option prefixes = 1U << 0;
constexpr Option masks = 1U << 1;
constexpr Option masks_after = 1U << 2;  // of the selection
constexpr Option transcoder = 1U << 3;
constexpr Option skip = 1U << 4;
constexpr Option auxiliary = 1U << 5;
constexpr Option free_decoder = 1U << 6;
constexpr Option l1 = 1U << 7;
constexpr Option l0 = 1U << 8;
constexpr Option l0_target = 1U << 9;
constexpr Option frequency = 1U << 10;
constexpr Option log_theta = 1U << 11;
constexpr Option window_past_zero = 1U << 12;  // theta < eps / 2
constexpr Option row_cap = 1U << 13;
constexpr Option local = 1U << 14;
constexpr Option warmup = 1U << 15;
constexpr Option equal_latents = 1U << 16;
constexpr Option zero_rows = 1U << 17;

struct Case {
    Kind kind;
    std::string name;
    Option options;
    bool on(Option option) const { return (options & option) != 0; }
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << name_of(c.kind) << " " << c.name;
}

struct Setting {
    Batch<double> batch;
    StepRules rules;
    Point<double> point;
};

Setting make_setting(const Case& c) {
    const test::Awkward awkward = c.on(equal_latents) ? test::Awkward::equal_latents
                                  : c.on(zero_rows)   ? test::Awkward::zero_rows
                                                      : test::Awkward::none;
    const test::Problem p = test::make_problem(rows, n, width, awkward);
    Random random(7, Purpose::synthetic);
    Setting s;
    s.batch = {rows, test::widen(p.x), {}};
    if (c.on(transcoder))
        for (std::size_t i = 0; i < rows * n; ++i) s.batch.target.push_back(0.5 * random.normal());

    StepRules& rules = s.rules;
    rules.kind = c.kind;
    rules.k = c.kind == Kind::topk ? 3 : 17.0 / rows;
    rules.mean_square = 1.7;
    rules.unit_decoder = !c.on(free_decoder);
    rules.aux_k = 2;
    rules.aux_coefficient = 0.5;
    rules.bandwidth = c.on(window_past_zero) ? 0.9 : 0.35;
    rules.log_theta = c.on(log_theta);
    rules.frequency_limit = 0.2;
    rules.penalty_warmup = c.on(warmup) ? 10 : 0;
    if (c.on(prefixes)) rules.prefixes = {2, 7, width};
    if (c.on(row_cap)) rules.row_cap = 2;
    if (c.on(local)) rules.rank_rows = {4, 0, 5};
    if (c.on(l1)) rules.l1 = 0.2;
    if (c.on(l0)) rules.l0 = 0.3;
    if (c.on(l0_target)) rules.l0_target = 2.5;
    if (c.on(frequency)) rules.frequency = 0.6;
    rules.atm = reference::AtmRules{.before_selection = !c.on(masks_after)};

    Sae<double> sae(p.sae);
    if (c.on(free_decoder))
        for (std::size_t i = 0; i < n * width; ++i) sae.w_dec[i] *= 0.5 + 0.1 * static_cast<double>(i / n);
    if (c.on(skip))
        for (std::size_t i = 0; i < n * n; ++i) sae.skip.push_back(0.3 * random.normal());
    if (c.kind == Kind::jumprelu)
        for (std::size_t j = 0; j < width; ++j) {
            const double theta = 0.25 + 0.3 * random.uniform();
            sae.latent.push_back(c.on(log_theta) ? std::log(theta) : theta);
        }
    if (c.kind == Kind::gated)
        for (std::size_t j = 0; j < 2 * width; ++j) sae.latent.push_back(0.2 * random.normal());

    Mask kept;
    if (c.on(masks) || c.on(masks_after))
        for (std::size_t i = 0; i < rows * width; ++i) kept.push_back(random.uniform() < 0.7);
    std::vector<std::uint32_t> dead;
    if (c.on(auxiliary)) dead = {1, 4, 5, 9, 11};
    s.point = reference::point_at(sae, s.batch, rules, 3, kept, dead);
    return s;
}

// Central differences of the losses' total in every element of tensor i, exact up to the fourth power.
std::vector<double> differences(const Setting& s, int tensor) {
    Sae<double> sae = s.point.sae;
    const auto loss_at = [&](double& value, double to) {
        value = to;
        return reference::losses_of(sae, s.batch, s.rules, s.point).total();
    };
    std::vector<double> all;
    for (double& value : sae.tensor(tensor)) {
        const double at = value, h = 1e-4;
        const double near = loss_at(value, at + h) - loss_at(value, at - h);
        const double far = loss_at(value, at + 2 * h) - loss_at(value, at - 2 * h);
        value = at;
        all.push_back((8 * near - far) / (12 * h));
    }
    return all;
}

std::vector<Case> cases() {
    std::vector<Case> all;
    for (const Kind kind :
         {Kind::relu, Kind::topk, Kind::batch_topk, Kind::jumprelu, Kind::gated, Kind::matryoshka}) {
        const Option penalty = kind == Kind::relu || kind == Kind::gated ? l1
                               : kind == Kind::jumprelu                  ? l0
                                                                         : 0;
        const Option always = penalty | (kind == Kind::matryoshka ? prefixes : 0);
        const auto add = [&](const char* name, Option options) {
            options |= always;
            const auto same = [&](const Case& c) { return c.kind == kind && c.options == options; };
            if (std::ranges::none_of(all, same)) all.push_back({kind, name, options});
        };
        all.push_back(
            {kind, kind == Kind::matryoshka ? "prefixes" : "reconstruction alone", always & ~penalty});
        if (penalty != 0) add("penalty", 0);
        if (penalty != 0) add("penalty while it rises", warmup);
        add("prefixes", prefixes);
        add("transcoder", transcoder);
        add("transcoder with skip", transcoder | skip);
        add("masks", masks);
        if (selects(kind)) add("masks after the selection", masks_after);
        add("auxiliary", auxiliary);
        add("prefixes, transcoder", prefixes | transcoder);
        add("prefixes, transcoder with skip", prefixes | transcoder | skip);
        add("prefixes, masks, auxiliary", prefixes | masks | auxiliary);
        add("prefixes, masks, auxiliary, transcoder with skip",
            prefixes | masks | auxiliary | transcoder | skip);
        if (kind == Kind::relu) {
            add("free decoder", free_decoder);
            add("free decoder, prefixes", free_decoder | prefixes);
            add("free decoder, prefixes, masks, transcoder with skip",
                free_decoder | prefixes | masks | transcoder | skip);
        }
        if (kind == Kind::batch_topk || kind == Kind::matryoshka) {
            add("row cap", row_cap);
            add("threshold by rank", local);
            add("auxiliary, equal latents", auxiliary | equal_latents);
            add("auxiliary, zero rows", auxiliary | zero_rows);
        }
        if (kind == Kind::jumprelu) {
            add("log theta", log_theta);
            add("window past zero", window_past_zero);
            add("l0 target", l0_target);
            add("l0 target, masks", l0_target | masks);
            add("frequency", frequency);
            add("frequency, masks", frequency | masks);
            add("l0 target, frequency, log theta", l0_target | frequency | log_theta);
            add("l0 target, frequency, prefixes, masks, transcoder with skip",
                l0_target | frequency | prefixes | masks | transcoder | skip);
        }
    }
    return all;
}

class ReferenceGradient : public testing::TestWithParam<Case> {};

TEST_P(ReferenceGradient, IsTheDerivativeOfTheLossInEveryParameter) {
    const Case& c = GetParam();
    const Setting s = make_setting(c);
    const reference::Losses<double> losses = reference::losses_of(s.point.sae, s.batch, s.rules, s.point);
    EXPECT_EQ(losses.penalty != 0, c.on(l1) || c.on(l0) || c.on(l0_target));
    EXPECT_EQ(losses.frequency != 0, c.on(frequency));
    EXPECT_EQ(losses.gate != 0, c.kind == Kind::gated);
    EXPECT_EQ(losses.auxiliary != 0, c.on(auxiliary));
    if (c.on(prefixes)) {
        EXPECT_GT(losses.prefixes, losses.reconstruction);
    } else {
        EXPECT_EQ(losses.prefixes, losses.reconstruction);
    }

    if (c.kind == Kind::jumprelu) {
        std::size_t above = 0, below = 0, out = 0;
        const std::vector<double> theta = reference::thetas(s.point.sae, s.rules);
        for (std::size_t i = 0; i < rows * width; ++i) {
            const double z = s.point.forward.z[i];
            if (s.point.forward.window[i] != 0) ++(z > theta[i % width] ? above : below);
            if (std::abs(z - theta[i % width]) < s.point.coefficients.bandwidth / 2 && z <= 0) ++out;
        }
        EXPECT_GT(above, 2);
        EXPECT_GT(below, 2);
        EXPECT_EQ(out > 0, c.on(window_past_zero));
    }

    const Sae<double> gradient = reference::gradient_of(s.batch, s.rules, s.point);
    for (int i = 0; i < Sae<double>::tensors; ++i) {
        ASSERT_EQ(gradient.tensor(i).size(), s.point.sae.tensor(i).size());
        if (gradient.tensor(i).empty()) continue;
        ASSERT_GT(test::largest(gradient.tensor(i)), 1e-3) << "nothing to compare";
        const double error = test::relative_difference(gradient.tensor(i), differences(s, i));
        EXPECT_LT(error, 1e-8) << Sae<double>::names[i];
        RecordProperty(Sae<double>::names[i], fmt::format("{:.2e}", error));
    }
}

std::string name_of_case(const testing::TestParamInfo<Case>& info) {
    std::string name = fmt::format("{}_{}", name_of(info.param.kind), info.param.name);
    std::ranges::replace(name, ' ', '_');
    std::erase(name, ',');
    return name;
}

INSTANTIATE_TEST_SUITE_P(Kinds, ReferenceGradient, testing::ValuesIn(cases()), name_of_case);

TEST(ReferenceGradientTable, DISABLED_TableOfErrors) {
    const std::vector<Case> all = cases();
    std::vector<std::string> checks;
    for (const Case& c : all)
        if (std::ranges::find(checks, c.name) == checks.end()) checks.push_back(c.name);
    std::string rule = "|---|";
    fmt::print("| check |");
    for (const char* kind : reference::kind_names) {
        fmt::print(" {} |", kind);
        rule += "---|";
    }
    fmt::print("\n{}\n", rule);
    for (const std::string& check : checks) {
        fmt::print("| {} |", check);
        for (const char* kind : reference::kind_names) {
            double worst = -1;
            for (const Case& c : all) {
                if (c.name != check || c.kind != reference::kind_named(kind)) continue;
                const Setting s = make_setting(c);
                const Sae<double> gradient = reference::gradient_of(s.batch, s.rules, s.point);
                for (int i = 0; i < Sae<double>::tensors; ++i)
                    worst = std::max(worst, test::relative_difference(gradient.tensor(i), differences(s, i)));
            }
            fmt::print(" {} |", worst < 0 ? "" : fmt::format("{:.1e}", worst));
        }
        fmt::print("\n");
    }
}

// The kinds that select, through the functions that take a selection.
TEST(Reference, GradientOfASelectionIsThatOfItsKind) {
    const Setting s = make_setting({Kind::batch_topk, "", auxiliary});
    const Sae<double> whole = reference::gradient_of(s.batch, s.rules, s.point);
    const Sae<double> part =
        reference::gradient_of(s.point.sae, s.batch.x, s.point.forward.selected, s.point.auxiliary, rows);
    for (int i = 0; i < 4; ++i) EXPECT_LT(test::relative_difference(part.tensor(i), whole.tensor(i)), 1e-14);
    EXPECT_NEAR(reference::loss_of(s.point.sae, s.batch.x, s.point.forward.selected, s.point.auxiliary, rows),
                reference::losses_of(s.point.sae, s.batch, s.rules, s.point).total(), 1e-13);
}

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
