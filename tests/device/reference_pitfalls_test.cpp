// Mistakes that other implementations were seen to make, each as the property that it breaks, of the
// reference. What the fast path computes is held to the reference, so these hold there too.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <numbers>

#include "support/problem.h"
#include "support/reference.h"

namespace strata {
namespace {

using reference::Batch;
using reference::Kind;
using reference::Mask;
using reference::Point;
using reference::Sae;
using reference::StepRules;

constexpr std::size_t rows = 16, n = 6, width = 20;
constexpr Kind kinds[] = {Kind::relu,     Kind::topk,  Kind::batch_topk,
                          Kind::jumprelu, Kind::gated, Kind::matryoshka};

StepRules rules_of(Kind kind) {
    StepRules rules;
    rules.kind = kind;
    rules.k = 3;
    rules.l1 = 0.2;
    rules.l0 = 0.3;
    rules.bandwidth = 0.3;
    rules.frequency = 0.4;
    rules.aux_k = 2;
    rules.aux_coefficient = 0.5;
    if (kind == Kind::matryoshka) rules.prefixes = {3, 9, width};
    return rules;
}

Sae<double> sae_of(const test::Problem& p, const StepRules& rules) {
    Sae<double> sae(p.sae);
    reference::start_latent(sae, rules, 0.3);
    Random random(3, Purpose::synthetic);
    if (rules.kind == Kind::gated)
        for (double& v : sae.latent) v = 0.2 * random.normal();
    return sae;
}

Batch<double> batch_of(const test::Problem& p) {
    return {p.rows, test::widen(p.x), {}};
}

const std::vector<std::uint32_t> dead = {2, 3, 7, 11, 19};

bool is_dead(std::size_t j) {
    return std::ranges::find(dead, static_cast<std::uint32_t>(j)) != dead.end();
}

class ReferencePitfalls : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, ReferencePitfalls, testing::ValuesIn(kinds),
                         [](const auto& info) { return std::string(name_of(info.param)); });

// A latent seen from outside: w, d, b and rows x = g v + 0.3 noise are Gaussian, so the slope of the expected
// loss in theta is known. Where z passes theta the squared error jumps by theta^2 - 2 theta d . (x - b_dec)
// and the count by one:
//   d/dtheta E[L] = -p(theta) (theta^2 - 2 theta E[d . (x - b_dec) | z = theta] + l0)
struct OneLatent {
    static constexpr std::size_t n = 8, batch_rows = 20000, batches = 10;
    static constexpr double theta = 0.6, l0 = 1, width = 0.05;
    Sae<double> sae{n, 1};
    StepRules rules;
    std::vector<double> v = std::vector<double>(n);
    Random random{5, Purpose::synthetic};

    OneLatent() {
        for (std::size_t c = 0; c < n; ++c) {
            v[c] = 1 / std::sqrt(8.0);
            sae.w_dec[c] = v[c] + 0.1 * random.normal();
            sae.w_enc[c] = 1.1 * v[c] + 0.1 * random.normal();
            sae.b_dec[c] = 0.05 * random.normal();
        }
        reference::renormalise(sae);
        sae.b_enc[0] = 0.1;
        sae.latent = {theta};
        rules.kind = Kind::jumprelu;
        rules.l0 = l0;
        rules.bandwidth = width;
    }

    Batch<double> draw() {
        Batch<double> batch{batch_rows, std::vector<double>(batch_rows * n), {}};
        for (std::size_t b = 0; b < batch_rows; ++b) {
            const double along = random.normal();
            for (std::size_t c = 0; c < n; ++c) batch.x[b * n + c] = along * v[c] + 0.3 * random.normal();
        }
        return batch;
    }

    double slope_of_the_expected_loss() const {
        const auto covariance = [&](const std::vector<double>& a, const std::vector<double>& b) {
            return reference::dot(a.data(), v.data(), n) * reference::dot(b.data(), v.data(), n) +
                   0.09 * reference::dot(a.data(), b.data(), n);
        };
        const double mean = sae.b_enc[0] - reference::dot(sae.w_enc.data(), sae.b_dec.data(), n);
        const double variance = covariance(sae.w_enc, sae.w_enc);
        const double along = -reference::dot(sae.w_dec.data(), sae.b_dec.data(), n) +
                             covariance(sae.w_enc, sae.w_dec) / variance * (theta - mean);
        const double density = std::exp(-(theta - mean) * (theta - mean) / (2 * variance)) /
                               std::sqrt(2 * std::numbers::pi * variance);
        return -density * (theta * theta - 2 * theta * along + l0);
    }
};

TEST(JumpreluTheta, GradientIsTheSlopeOfTheExpectedLoss) {
    OneLatent one;
    double estimate = 0, difference = 0, kernel_above_only = 0;
    for (std::size_t i = 0; i < OneLatent::batches; ++i) {
        const Batch<double> batch = one.draw();
        const Point<double> point = reference::point_at(one.sae, batch, one.rules, 0);
        const double gradient = reference::gradient_of(batch, one.rules, point).latent[0];
        estimate += gradient / OneLatent::batches;
        // The loss itself, the threshold moved by half the kernel's width to either side.
        double loss[2];
        for (const int side : {0, 1}) {
            Sae<double> moved = one.sae;
            moved.latent[0] += (side == 0 ? -0.5 : 0.5) * OneLatent::width;
            const Point<double> there = reference::point_at(moved, batch, one.rules, 0);
            loss[side] = reference::losses_of(moved, batch, one.rules, there).total();
        }
        difference += (loss[1] - loss[0]) / OneLatent::width / OneLatent::batches;
        // The count taken from codes, which are zero below the threshold, would see half of the window.
        double missing = 0;
        for (std::size_t b = 0; b < batch.rows; ++b)
            if (point.forward.window[b] != 0 && point.forward.selected[b] == 0)
                missing += OneLatent::l0 / OneLatent::width / static_cast<double>(batch.rows);
        kernel_above_only += (gradient + missing) / OneLatent::batches;
    }
    const double expected = one.slope_of_the_expected_loss();
    RecordProperty("slopes", fmt::format("expected {:.4f}, gradient {:.4f}, difference {:.4f}, kernel above "
                                         "the threshold only {:.4f}",
                                         expected, estimate, difference, kernel_above_only));
    EXPECT_LT(expected, -0.1);
    EXPECT_NEAR(estimate, expected, 0.04 * std::abs(expected));
    EXPECT_NEAR(estimate, difference, 0.01 * std::abs(expected));
    EXPECT_GT(std::abs(kernel_above_only - expected), 0.3 * std::abs(expected));
}

// Codes are zero where z is below the threshold, and if theta < eps / 2 zeros lie in the window.
TEST(JumpreluTheta, WindowIsOfPreActivationsAndLeavesOutWhatIsNotPositive) {
    StepRules rules = rules_of(Kind::jumprelu);
    rules.bandwidth = 1;
    Sae<double> sae(1, 6);
    sae.b_enc = {0.75, 0.8, 0.3, 0.1, -0.1, 0.25};  // z, since x = 0
    sae.latent.assign(6, 0.25);
    const reference::Forward<double> at = reference::forward(sae, Batch<double>{1, {0}, {}}, rules);
    EXPECT_EQ(at.selected, (Mask{1, 1, 1, 0, 0, 0})) << "strict: z = theta is no code";
    EXPECT_EQ(at.window, (Mask{0, 0, 1, 1, 0, 1})) << "the edge itself is outside";
}

TEST(JumpreluTheta, GradientOfItsLogarithmHasTheFactorTheta) {
    const test::Problem p = test::make_problem(rows, n, width);
    StepRules rules = rules_of(Kind::jumprelu);
    Sae<double> sae = sae_of(p, rules);
    for (std::size_t j = 0; j < width; ++j) sae.latent[j] = 0.1 + 0.03 * static_cast<double>(j);
    const Batch<double> batch = batch_of(p);
    const Sae<double> direct =
        reference::gradient_of(batch, rules, reference::point_at(sae, batch, rules, 0));
    const std::vector<double> theta = sae.latent;
    rules.log_theta = true;
    for (double& v : sae.latent) v = std::log(v);
    const Sae<double> logarithm =
        reference::gradient_of(batch, rules, reference::point_at(sae, batch, rules, 0));
    EXPECT_GT(test::largest(direct.latent), 0.01);
    for (std::size_t j = 0; j < width; ++j)
        EXPECT_NEAR(logarithm.latent[j], theta[j] * direct.latent[j], 1e-12);
    EXPECT_LT(test::relative_difference(logarithm.w_enc, direct.w_enc), 1e-12);
}

// x and b_dec move together: pre-activations and errors stay, so the auxiliary loss must.
TEST_P(ReferencePitfalls, AuxiliaryLossDoesNotContainTheDecoderBias) {
    const StepRules rules = rules_of(GetParam());
    const test::Problem p = test::make_problem(rows, n, width);
    Sae<double> sae = sae_of(p, rules);
    Batch<double> batch = batch_of(p);
    const Point<double> before = reference::point_at(sae, batch, rules, 0, {}, dead);
    for (double& v : batch.x) v += 2;
    for (double& v : sae.b_dec) v += 2;
    const Point<double> after = reference::point_at(sae, batch, rules, 0, {}, dead);
    const double expected = reference::losses_of(before.sae, batch_of(p), rules, before).auxiliary;
    EXPECT_GT(expected, 0.01);
    EXPECT_NEAR(reference::losses_of(sae, batch, rules, after).auxiliary, expected, 1e-12);
}

// The error that the auxiliary term explains is a constant: it pulls no latent that is alive.
TEST_P(ReferencePitfalls, AuxiliaryLossLeavesLiveLatentsAlone) {
    const StepRules rules = rules_of(GetParam());
    const test::Problem p = test::make_problem(rows, n, width);
    const Sae<double> sae = sae_of(p, rules);
    const Batch<double> batch = batch_of(p);
    const Sae<double> without =
        reference::gradient_of(batch, rules, reference::point_at(sae, batch, rules, 0));
    const Sae<double> with =
        reference::gradient_of(batch, rules, reference::point_at(sae, batch, rules, 0, {}, dead));
    double moved = 0;
    for (std::size_t j = 0; j < width; ++j)
        for (std::size_t c = 0; c < n; ++c)
            for (const int i : {0, 1}) {
                const double by = with.tensor(i)[j * n + c] - without.tensor(i)[j * n + c];
                if (!is_dead(j)) {
                    EXPECT_EQ(by, 0) << Sae<double>::names[i] << " of latent " << j;
                }
                moved = std::max(moved, std::abs(by));
            }
    EXPECT_GT(moved, 1e-3);
    EXPECT_EQ(with.latent, without.latent);
}

// Live latents, and dead ones that are not positive, are never taken to fill up aux_k.
TEST(ReferenceAuxiliary, TakesOnlyPositivePreActivationsOfDeadLatents) {
    const std::vector<double> z = {9, 0.1, -1, 8, 0.3, 0.2,  //
                                   9, -2,  -1, 8, -3,  -1,   //
                                   9, -2,  -1, 8, 0,   1};
    StepRules rules;
    rules.aux_k = 2;
    rules.aux_coefficient = 1;
    std::vector<double> error(3);
    error = {1, 2, 4};
    const reference::Auxiliary<double> auxiliary =
        reference::freeze_auxiliary(error, z, {1, 2, 4, 5}, rules, 3, 1);
    EXPECT_EQ(auxiliary.mask, (Mask{0, 0, 0, 0, 1, 1,  //
                                    0, 0, 0, 0, 0, 0,  //
                                    0, 0, 0, 0, 0, 1}));
}

// Every column of x, W_enc and W_dec twice, over sqrt 2: lengths and products stay, and with them every term.
// A term that is a mean over the input width where the others are sums would halve.
TEST_P(ReferencePitfalls, TermsKeepTheirBalanceAtAnyInputWidth) {
    const StepRules rules = rules_of(GetParam());
    const test::Problem p = test::make_problem(rows, n, width);
    const Sae<double> sae = sae_of(p, rules);
    const Batch<double> batch = batch_of(p);
    const auto twice = [](const std::vector<double>& from) {
        std::vector<double> to;
        for (const double v : from) to.insert(to.end(), 2, v / std::numbers::sqrt2);
        return to;
    };
    Sae<double> wide(2 * n, width);
    wide.w_enc = twice(sae.w_enc);
    wide.w_dec = twice(sae.w_dec);
    wide.b_dec = twice(sae.b_dec);
    wide.b_enc = sae.b_enc;
    wide.latent = sae.latent;
    const Batch<double> wide_batch{rows, twice(batch.x), {}};
    const Point<double> narrow_point = reference::point_at(sae, batch, rules, 0, {}, dead);
    const Point<double> wide_point = reference::point_at(wide, wide_batch, rules, 0, {}, dead);
    const auto a = reference::losses_of(sae, batch, rules, narrow_point);
    const auto b = reference::losses_of(wide, wide_batch, rules, wide_point);
    EXPECT_NEAR(a.reconstruction, b.reconstruction, 1e-12);
    EXPECT_NEAR(a.prefixes, b.prefixes, 1e-12);
    EXPECT_NEAR(a.penalty, b.penalty, 1e-12);
    EXPECT_NEAR(a.frequency, b.frequency, 1e-12);
    EXPECT_NEAR(a.gate, b.gate, 1e-12);
    EXPECT_NEAR(a.auxiliary, b.auxiliary, 1e-12);
    EXPECT_GT(a.auxiliary, 0.01);
}

// Rows s times as long, and with them all that has their unit: every term becomes s^2 times as large.
TEST_P(ReferencePitfalls, EveryTermScalesWithItsInput) {
    StepRules rules = rules_of(GetParam());
    const test::Problem p = test::make_problem(rows, n, width);
    Sae<double> sae = sae_of(p, rules);
    Batch<double> batch = batch_of(p);
    const auto losses = [&] {
        return reference::losses_of(sae, batch, rules, reference::point_at(sae, batch, rules, 0, {}, dead));
    };
    const auto before = losses();
    const double s = 24;
    const std::size_t scaled_latents = rules.kind == Kind::gated ? width : 0;  // rho has no unit
    for (std::size_t j = scaled_latents; j < sae.latent.size(); ++j) sae.latent[j] *= s;
    for (auto* values : {&batch.x, &sae.b_enc, &sae.b_dec})
        for (double& v : *values) v *= s;
    rules.mean_square *= s * s;
    const auto after = losses();
    EXPECT_NEAR(after.prefixes / (s * s), before.prefixes, 1e-12);
    EXPECT_NEAR(after.penalty / (s * s), before.penalty, 1e-12);
    EXPECT_NEAR(after.frequency / (s * s), before.frequency, 1e-12);
    EXPECT_NEAR(after.gate / (s * s), before.gate, 1e-12);
    EXPECT_NEAR(after.auxiliary / (s * s), before.auxiliary, 1e-12);
}

TEST(ReferenceMatryoshka, SelectsOnceForAllPrefixes) {
    const StepRules rules = rules_of(Kind::matryoshka);
    const test::Problem p = test::make_problem(rows, n, width);
    const Sae<double> sae = sae_of(p, rules);
    const Batch<double> batch = batch_of(p);
    const reference::Forward<double> at = reference::forward(sae, batch, rules);
    StepRules whole = rules;
    whole.kind = Kind::batch_topk;
    whole.prefixes.clear();
    EXPECT_EQ(at.selected, reference::forward(sae, batch, whole).selected);
    EXPECT_EQ(std::ranges::count(at.selected, 1), 3 * rows);
    for (std::size_t g = 0; g < 3; ++g) {
        std::vector<double> f = at.f;
        for (std::size_t i = 0; i < f.size(); ++i)
            if (i % width >= rules.prefixes[g]) f[i] = 0;
        EXPECT_LT(test::relative_difference(at.residual[g], reference::residual_of(sae, batch, f)), 1e-13);
    }
}

// The third term is made with a decoder that it does not train, and the penalty is not weighted by the
// decoder's length: dL/dd_j is that of the reconstruction.
TEST(ReferenceGated, OnlyTheReconstructionTrainsTheDecoder) {
    StepRules rules = rules_of(Kind::gated);
    const test::Problem p = test::make_problem(rows, n, width);
    Sae<double> sae = sae_of(p, rules);
    for (double& v : sae.w_dec) v *= 1.5;
    const Batch<double> batch = batch_of(p);
    const Point<double> point = reference::point_at(sae, batch, rules, 0);
    const Sae<double> gradient = reference::gradient_of(batch, rules, point);
    std::vector<double> expected(n * width), bias(n), of_the_gate(n * width);
    const std::vector<double> gate_residual = [&] {
        std::vector<double> gate = point.forward.z;
        for (double& v : gate) v = std::max(v, 0.0);
        return reference::residual_of(sae, batch, gate);
    }();
    for (std::size_t b = 0; b < rows; ++b)
        for (std::size_t j = 0; j < width; ++j)
            for (std::size_t c = 0; c < n; ++c) {
                expected[j * n + c] +=
                    2.0 / rows * point.forward.f[b * width + j] * point.forward.residual[0][b * n + c];
                of_the_gate[j * n + c] +=
                    2.0 / rows * std::max(point.forward.z[b * width + j], 0.0) * gate_residual[b * n + c];
            }
    EXPECT_LT(test::relative_difference(gradient.w_dec, expected), 1e-12);
    EXPECT_GT(test::largest(of_the_gate), 0.1) << "there is nothing that could have been added";
}

// w' = exp(rho) w, b' = beta, theta = max(0, beta - exp(rho) b_enc): the form in which it is saved.
TEST(ReferenceGated, IsAJumpreluInUse) {
    const StepRules rules = rules_of(Kind::gated);
    const test::Problem p = test::make_problem(rows, n, width);
    const Sae<double> gated = sae_of(p, rules);
    Sae<double> saved = gated;
    saved.latent.assign(width, 0);
    for (std::size_t j = 0; j < width; ++j) {
        const double scale = std::exp(gated.latent[j]), beta = gated.latent[width + j];
        for (std::size_t c = 0; c < n; ++c) saved.w_enc[j * n + c] *= scale;
        saved.b_enc[j] = beta;
        saved.latent[j] = std::max(0.0, beta - scale * gated.b_enc[j]);
    }
    const auto as_gated = reference::forward(gated, batch_of(p), rules);
    const auto as_jumprelu = reference::forward(saved, batch_of(p), rules_of(Kind::jumprelu));
    EXPECT_EQ(as_jumprelu.selected, as_gated.selected);
    EXPECT_LT(test::relative_difference(as_jumprelu.f, as_gated.f), 1e-13);
    EXPECT_GT(as_gated.l0, 1);
}

// The norm is that of all tensors, with the decoder's gradient already orthogonal to its rows.
TEST_P(ReferencePitfalls, ClippingMeasuresAllTensorsAfterTheProjection) {
    StepRules rules = rules_of(GetParam());
    const test::Problem p = test::make_problem(rows, n, width);
    Sae<double> sae = sae_of(p, rules);
    sae.skip.assign(n * n, 0.1);
    std::vector<double> target = test::widen(p.x);
    for (double& v : target) v *= 3;
    const Batch<double> batch{rows, test::widen(p.x), target};
    rules.dead_after = 1;
    rules.clip_norm = 0.25;
    rules.rates = {.lr = 0, .beta1 = 0.9};
    reference::Trained<double> trained(sae);
    const reference::StepResult<double> result = reference::step(trained, batch.x, batch.target, rows, rules);
    double square = 0;
    for (int i = 0; i < Sae<double>::tensors; ++i) {
        for (const double v : result.gradient.tensor(i)) square += v * v;
        if (!result.gradient.tensor(i).empty()) {
            EXPECT_GT(test::largest(result.gradient.tensor(i)), 1e-3) << Sae<double>::names[i];
        }
    }
    EXPECT_NEAR(result.gradient_norm, std::sqrt(square), 1e-12);
    EXPECT_GT(result.gradient_norm, rules.clip_norm);
    for (std::size_t j = 0; j < width; ++j)
        EXPECT_NEAR(reference::dot(result.gradient.decoder(j), sae.decoder(j), n), 0, 1e-12);
    const Sae<double> raw = reference::gradient_of(batch, rules, reference::point_at(sae, batch, rules, 0));
    EXPECT_GT(std::sqrt(reference::square_norm(raw)), result.gradient_norm + 0.01);
    // Adam's first moment is a tenth of what it was given.
    EXPECT_NEAR(std::sqrt(reference::square_norm(trained.first)), 0.1 * rules.clip_norm, 1e-12);
}

}  // namespace
}  // namespace strata
