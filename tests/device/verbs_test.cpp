// Every verb of a step on a device against the dense reference in double, over shapes that fill no
// block and batches that are awkward. Which pairs are selected is compared exactly: the value that counts is
// the dot product of the CPU's kernels, so a dense selection over those values is the answer.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <numeric>

#include "comm/self.h"
#include "device/cpu/kernels.h"
#include "sae/kind.h"
#include "support/inside.h"
#include "support/problem.h"
#include "support/reference.h"
#include "support/test_device.h"

namespace strata {
namespace {

using device::CodeSet;
using reference::Mask;
using reference::Sae;
using test::Awkward;
using test::Pair;

struct Case {
    std::size_t rows, n, width;
    const char* kind;
    double k;
    Awkward awkward = Awkward::none;
    std::int64_t row_cap = 0;
    std::size_t aux_k = 3;
    int threads = 2;
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << c.rows << "x" << c.n << " to " << c.width << ", " << c.kind << " " << c.k << ", "
         << test::name_of(c.awkward);
}

// z as the device must count it, [rows, M].
std::vector<float> values_that_count(const Sae<float>& sae, const std::vector<float>& x, std::size_t rows) {
    const device::Kernels& kernels = device::kernels();
    const auto n = static_cast<std::int64_t>(sae.n);
    std::vector<float> z(rows * sae.width);
    std::vector<float> xc(sae.n);
    for (std::size_t b = 0; b < rows; ++b) {
        kernels.subtract(x.data() + b * sae.n, sae.b_dec.data(), n, xc.data());
        for (std::size_t j = 0; j < sae.width; ++j)
            z[b * sae.width + j] = kernels.dot(xc.data(), sae.w_enc.data() + j * sae.n, n) + sae.b_enc[j];
    }
    return z;
}

std::vector<Pair> selected(const std::vector<float>& z, const Mask& mask, std::size_t width) {
    std::vector<Pair> pairs;
    for (std::size_t i = 0; i < z.size(); ++i)
        if (mask[i] != 0)
            pairs.push_back(
                {static_cast<std::uint32_t>(i / width), static_cast<std::uint32_t>(i % width), z[i]});
    return pairs;
}

class Verbs : public testing::TestWithParam<Case> {
  protected:
    void record(const char* what, double error, double allowed) {
        EXPECT_LE(error, allowed) << what;
        RecordProperty(what, fmt::format("{:.2e}", error));
    }
};

TEST_P(Verbs, MatchTheReference) {
    const Case& c = GetParam();
    const std::size_t rows = c.rows;
    const std::size_t width = c.width;
    const test::Problem p = test::make_problem(rows, c.n, width, c.awkward);
    const Sae<double> sae(p.sae);
    const std::vector<double> x = test::widen(p.x);

    const std::unique_ptr<device::Device> owner = test::make_test_device(c.threads);
    device::Device& device = *owner;
    device.prepare(static_cast<std::int64_t>(rows), static_cast<std::int64_t>(c.n),
                   static_cast<std::int64_t>(width), 1);
    device::Tensors parameters = test::put(p.sae, device);
    device.center({p.x, static_cast<std::int64_t>(rows)}, parameters);

    // Values.
    const std::vector<double> z = reference::pre_activations(sae, x, rows);
    const std::vector<float> z_counts = values_that_count(p.sae, p.x, rows);
    double worst = 0;
    for (std::size_t b = 0; b < rows; ++b)
        for (std::size_t j = 0; j < width; ++j) {
            double products = 0;
            for (std::size_t i = 0; i < c.n; ++i)
                products +=
                    (std::abs(x[b * c.n + i]) + std::abs(sae.b_dec[i])) * std::abs(sae.w_enc[j * c.n + i]);
            const double bound =
                static_cast<double>(c.n + 2) * 0x1p-24 * products + 0x1p-24 * std::abs(z[b * width + j]);
            worst = std::max(worst, std::abs(z_counts[b * width + j] - z[b * width + j]) / bound);
        }
    record("z_over_rounding_bound", worst, 1);

    // Every positive pre-activation is a candidate of the widest screen.
    ASSERT_TRUE(test::screen_above(device, parameters, 0));
    EXPECT_EQ(test::candidates_in(device),
              selected(z_counts, reference::select_row_top(z_counts, rows, width, width), width));

    // Selection, from nothing and with the guess that this one leaves.
    SaeConfig config;
    config.kind = c.kind;
    config.width = static_cast<std::int64_t>(width);
    config.k = c.k;
    config.row_cap = c.row_cap;
    const auto self = make_self_communicator();
    const bool batch_rule = config.kind == "batch_topk";
    const auto wanted = static_cast<std::size_t>(sae::codes_of_batch(c.k, static_cast<std::int64_t>(rows)));
    const auto cap = static_cast<std::size_t>(
        c.row_cap == 0 ? 0 : std::max(1LL, std::llround(static_cast<double>(c.row_cap) * c.k)));
    const Mask mask = batch_rule
                          ? reference::select_batch_top(z_counts, rows, width, wanted, cap)
                          : reference::select_row_top(z_counts, rows, width, static_cast<std::size_t>(c.k));
    const std::vector<Pair> codes = selected(z_counts, mask, width);
    float guess = 0;
    float margin = 0;
    for (const char* from : {"no guess", "a good guess", "too high a guess", "too low a guess"}) {
        if (std::string(from) == "too high a guess") guess *= 4;
        if (std::string(from) == "too low a guess") guess *= 0.01F;
        const float threshold = sae::kind_of(c.kind).select({device, *self, nullptr, parameters, config,
                                                             static_cast<std::int64_t>(rows),
                                                             static_cast<std::int64_t>(rows), guess, margin});
        ASSERT_EQ(test::codes_of(device), codes) << from;
        const bool full = batch_rule && codes.size() == wanted && wanted > 0;
        EXPECT_EQ(threshold, full ? reference::smallest_selected(z_counts, mask) : 0) << from;
    }

    // Decode.
    const double unit = c.awkward == Awkward::huge ? 1e6 : c.awkward == Awkward::tiny ? 1e-6 : 1;
    const double row_scale = 2.0 / static_cast<double>(rows);
    device.decode(CodeSet::main, parameters, static_cast<float>(row_scale));
    const device::DecodeSums sums = device.decode_sums(CodeSet::main);
    const std::vector<double> error = reference::error_of(sae, x, z, mask, rows);
    double l1 = 0;
    double cosine = 0;
    double terms = 0;  // what the residual is the difference of
    for (std::size_t b = 0; b < rows; ++b) {
        double xx = 0, xh = 0, hh = 0, row_l1 = 0, cc = 0;
        for (std::size_t j = 0; j < width; ++j)
            if (mask[b * width + j] != 0) row_l1 += z[b * width + j];
        for (std::size_t i = b * c.n; i < (b + 1) * c.n; ++i) {
            xx += x[i] * x[i];
            xh += x[i] * (x[i] - error[i]);
            hh += (x[i] - error[i]) * (x[i] - error[i]);
            cc += (x[i] - sae.b_dec[i % c.n]) * (x[i] - sae.b_dec[i % c.n]);
        }
        l1 += row_l1;
        terms += (std::sqrt(cc) + row_l1) * (std::sqrt(cc) + row_l1);
        if (xx > 0 && hh > 0) cosine += xh / std::sqrt(xx * hh);
    }
    EXPECT_EQ(sums.active, codes.size());
    record("squared_error", std::abs(sums.squared_error - reference::square_of(error)) / terms, 1e-6);
    record("l1", std::abs(sums.l1 - l1) / std::max(l1, 1e-30), 1e-6);
    record("cosine", std::abs(sums.cosine - cosine) / static_cast<double>(rows), 1e-5);

    std::vector<double> residual_sums(c.n), x_sums(c.n), expected_residual(c.n), expected_x(c.n);
    device.add_residual_columns(parameters, residual_sums);
    const double x_square = device.output_columns(parameters, x_sums);
    for (std::size_t i = 0; i < x.size(); ++i) {
        expected_residual[i % c.n] -= error[i];
        expected_x[i % c.n] += x[i];
    }
    const double rows_norm = std::sqrt(terms * static_cast<double>(rows));
    for (std::size_t i = 0; i < c.n; ++i) {
        EXPECT_NEAR(residual_sums[i], expected_residual[i], 1e-6 * rows_norm);
        EXPECT_NEAR(x_sums[i], expected_x[i], 1e-6 * rows_norm);
    }
    EXPECT_NEAR(x_square, reference::square_of(x), 1e-6 * (terms + reference::square_of(x)));

    std::vector<std::uint64_t> counts(width, 5), expected_counts(width, 5);
    std::vector<std::uint32_t> bits((width + 31) / 32, ~0U), expected_bits((width + 31) / 32, 0);
    for (const Pair& pair : codes) {
        ++expected_counts[pair.latent];
        expected_bits[pair.latent / 32] |= 1U << (pair.latent % 32);
    }
    device.count_codes(counts);
    device.fired(CodeSet::main, bits);
    EXPECT_EQ(counts, expected_counts);
    EXPECT_EQ(bits, expected_bits);

    // The auxiliary codes, among every second latent.
    std::vector<std::uint32_t> dead;
    for (std::uint32_t j = 1; j < width; j += 2) dead.push_back(j);
    reference::StepRules rules;
    rules.aux_k = std::min(c.aux_k, dead.size());
    rules.aux_coefficient = 0.5;
    rules.mean_square = reference::square_of(x) / static_cast<double>(rows);
    reference::Auxiliary<double> auxiliary;
    std::vector<device::SetUse> sets = {{.set = CodeSet::main}};
    if (!dead.empty()) {
        device.screen_row_top(parameters, static_cast<std::int64_t>(rules.aux_k), dead);
        device.keep(CodeSet::auxiliary, 0, 0, false);
        auxiliary = reference::freeze_auxiliary(sae, x, z, mask, dead, rules, rows);
        // B = 1 has no variance; any constant weight tests the gradient.
        if (rows == 1 || c.awkward == Awkward::one_row_many_times) auxiliary.weight = 0.7;
        auxiliary.mask = reference::select_row_top(z_counts, rows, width, rules.aux_k, dead);
        ASSERT_EQ(test::codes_of(device, CodeSet::auxiliary), selected(z_counts, auxiliary.mask, width));
        EXPECT_EQ(test::codes_of(device), codes) << "the auxiliary codes replaced the main ones";
        device.decode(CodeSet::auxiliary, parameters, static_cast<float>(2 * auxiliary.weight));
        const device::DecodeSums missed = device.decode_sums(CodeSet::auxiliary);
        record("auxiliary_error",
               std::abs(missed.squared_error -
                        reference::auxiliary_loss(sae, z, auxiliary, rows) / auxiliary.weight) /
                   std::max(terms, missed.squared_error),
               1e-6);
        sets.push_back({.set = CodeSet::auxiliary});
    }

    // Gradients; without unit rows nothing is projected.
    const Sae<double> raw = reference::gradient_of(sae, x, mask, auxiliary, rows);
    Sae<double> projected = raw;
    reference::project(projected, sae);
    device::Shape free_rows = test::shape_of(p.sae);
    free_rows.unit_rows = false;
    const device::Tensors unprojected = test::put(p.sae, device, free_rows);
    device::Tensors gradient = test::put(p.sae, device);  // to be overwritten
    for (const bool projecting : {false, true}) {
        std::int64_t next = 0;
        device::LatentSums by_latent;
        device.accumulate(sets, {}, projecting ? parameters : unprojected, gradient, {&by_latent, 1},
                          [&](std::int64_t first, std::int64_t last) {
                              EXPECT_EQ(first, next);
                              EXPECT_GT(last, first);
                              next = last;
                          });
        EXPECT_EQ(next, static_cast<std::int64_t>(width));
        const Sae<float> found = test::get(gradient, device);
        const Sae<double>& expected = projecting ? projected : raw;
        for (int i = 0; i < 4; ++i) {
            // Of the size of what is summed: the projection may leave nothing, and b_dec is a difference.
            double scale = std::max(test::largest(raw.tensor(i)), 1e-3 * row_scale * unit);
            if (i == 3) scale = std::max(scale, test::largest(raw.b_enc));
            double difference = 0;
            for (std::size_t e = 0; e < found.tensor(i).size(); ++e)
                difference = std::max(difference, std::abs(found.tensor(i)[e] - expected.tensor(i)[e]));
            record(fmt::format("{}_{}", projecting ? "projected" : "raw", Sae<double>::names[i]).c_str(),
                   difference / scale, 1e-5);
        }
        const double expected_norm = reference::square_norm(Sae<double>(found));
        const double matrices =
            reference::square_of(test::widen(found.w_enc)) + reference::square_of(test::widen(found.w_dec));
        EXPECT_NEAR(device.gradient_norm(), matrices, 2e-6 * matrices);
        EXPECT_NEAR(test::square_norm(device, gradient), expected_norm, 2e-6 * expected_norm);
    }

    // Two Adam steps on the gradient just found.
    Sae<double> moved(p.sae), first(c.n, width), second(c.n, width);
    const Sae<double> found(test::get(gradient, device));
    device::Tensors m = device::make_tensors(device, parameters);
    device::Tensors v = device::make_tensors(device, parameters);
    reference::AdamRates rates{.lr = 0.01, .beta1 = 0.8, .beta2 = 0.99, .epsilon = 1e-8};
    for (int t = 1; t <= 2; ++t) {
        device.update(parameters, gradient, m, v,
                      {.lr = 0.01F,
                       .beta1 = 0.8F,
                       .beta2 = 0.99F,
                       .epsilon = 1e-8F,
                       .correction1 = static_cast<float>(1 - std::pow(0.8, t)),
                       .correction2 = static_cast<float>(1 - std::pow(0.99, t)),
                       .gradient_scale = 0.5F},
                      0, parameters.width);
        reference::adam(moved, first, second, found, rates, 0.5, t);
        reference::renormalise(moved);
    }
    const Sae<float> updated = test::get(parameters, device);
    double update_error = 0;
    for (int i = 0; i < 4; ++i)
        for (std::size_t e = 0; e < updated.tensor(i).size(); ++e)
            update_error = std::max(update_error, std::abs(updated.tensor(i)[e] - moved.tensor(i)[e]) /
                                                      (1 + std::abs(moved.tensor(i)[e])));
    record("updated", update_error, 1e-6);
    double off_unit = 0;
    for (std::size_t j = 0; j < width; ++j) {
        double square = 0;
        for (std::size_t i = 0; i < c.n; ++i)
            square += std::pow(static_cast<double>(updated.w_dec[j * c.n + i]), 2);
        off_unit = std::max(off_unit, std::abs(std::sqrt(square) - 1));
    }
    record("off_unit_norm", off_unit, 1e-6);
}

constexpr const char* topk = "topk";
constexpr const char* batch = "batch_topk";

INSTANTIATE_TEST_SUITE_P(
    Shapes, Verbs,
    testing::Values(Case{1, 1, 1, topk, 1}, Case{1, 1, 1, batch, 1}, Case{1, 7, 33, topk, 5},
                    Case{1, 7, 33, batch, 5}, Case{13, 1, 70, batch, 3}, Case{13, 7, 65, topk, 4},
                    Case{13, 7, 65, batch, 4}, Case{33, 33, 130, topk, 8}, Case{33, 33, 130, batch, 8},
                    Case{70, 33, 513, batch, 6, Awkward::none, 0, 40},
                    Case{70, 33, 513, topk, 6, Awkward::none, 0, 40}, Case{67, 576, 700, batch, 9},
                    Case{67, 576, 700, topk, 9}, Case{129, 16, 1024, batch, 5},
                    Case{31, 64, 257, topk, 3, Awkward::none, 0, 1}));
INSTANTIATE_TEST_SUITE_P(Counts, Verbs,
                         testing::Values(Case{9, 12, 40, topk, 40}, Case{9, 12, 40, batch, 40},
                                         Case{9, 12, 40, topk, 100}, Case{9, 12, 40, batch, 100},
                                         Case{64, 20, 300, batch, 0.4}, Case{64, 20, 300, batch, 3.3},
                                         Case{64, 20, 300, batch, 1.0 / 64},
                                         Case{64, 20, 300, batch, 5, Awkward::outliers, 1},
                                         Case{64, 20, 300, batch, 5, Awkward::outliers, 2},
                                         Case{64, 20, 300, batch, 0.3, Awkward::outliers, 2}));
INSTANTIATE_TEST_SUITE_P(Threads, Verbs,
                         testing::Values(Case{50, 24, 200, batch, 6, Awkward::none, 0, 3, 1},
                                         Case{50, 24, 200, topk, 6, Awkward::none, 0, 3, 5},
                                         Case{3, 24, 200, batch, 6, Awkward::none, 0, 3, 5}));

std::vector<Case> awkward_cases() {
    std::vector<Case> cases;
    for (const Awkward kind : {Awkward::zero_rows, Awkward::equal_rows, Awkward::equal_latents,
                               Awkward::few_positive, Awkward::none_positive, Awkward::huge, Awkward::tiny,
                               Awkward::outliers, Awkward::large_biases, Awkward::one_row_many_times}) {
        cases.push_back({60, 40, 300, topk, 7, kind});
        cases.push_back({60, 40, 300, batch, 7.1, kind});
    }
    return cases;
}
INSTANTIATE_TEST_SUITE_P(Batches, Verbs, testing::ValuesIn(awkward_cases()));

}  // namespace
}  // namespace strata
