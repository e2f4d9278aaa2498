// What the result of a step must not depend on: the number of threads, what the device did before, how the
// candidates were found.

#include <gtest/gtest.h>

#include "comm/self.h"
#include "sae/kind.h"
#include "support/inside.h"
#include "support/problem.h"
#include "support/test_device.h"

namespace strata {
namespace {

using device::CodeSet;
using test::Awkward;
using test::Pair;

// All that the verbs of a step leave behind.
struct Outcome {
    std::vector<Pair> candidates, codes, auxiliary_codes;
    std::vector<float> code_gradients;
    std::vector<double> numbers;
    reference::Sae<float> gradient, parameters;

    void expect_bits_of(const Outcome& other) const {
        EXPECT_EQ(candidates, other.candidates);
        EXPECT_EQ(codes, other.codes);
        EXPECT_EQ(auxiliary_codes, other.auxiliary_codes);
        EXPECT_EQ(code_gradients, other.code_gradients);
        EXPECT_EQ(numbers, other.numbers);
        for (int i = 0; i < 4; ++i) {
            EXPECT_EQ(gradient.tensor(i), other.gradient.tensor(i)) << reference::Sae<float>::names[i];
            EXPECT_EQ(parameters.tensor(i), other.parameters.tensor(i)) << reference::Sae<float>::names[i];
        }
    }
};

Outcome run(device::Device& device, const test::Problem& p, bool batch_rule, double k) {
    Outcome out;
    const auto rows = static_cast<std::int64_t>(p.rows);
    const auto n = static_cast<std::int64_t>(p.sae.n);
    const auto width = static_cast<std::int64_t>(p.sae.width);
    device.prepare(rows, n, width, 1);
    device::Tensors parameters = test::put(p.sae, device);
    device::Tensors gradient = device::make_tensors(device, parameters);
    device::Tensors first = device::make_tensors(device, parameters);
    device::Tensors second = device::make_tensors(device, parameters);
    device.center({p.x, rows}, parameters);
    EXPECT_TRUE(test::screen_above(device, parameters, 0.2F));
    out.candidates = test::candidates_in(device);
    SaeConfig config;
    config.width = width;
    config.k = k;
    const auto self = make_self_communicator();
    float guess = 0;
    float margin = 0;
    out.numbers.push_back(
        sae::kind_of(batch_rule ? "batch_topk" : "topk")
            .select({device, *self, nullptr, parameters, config, rows, rows, guess, margin}));
    out.numbers.push_back(guess);
    out.codes = test::codes_of(device);
    const auto add = [&](const device::DecodeSums& s) {
        out.numbers.insert(out.numbers.end(),
                           {s.squared_error, s.l1, s.cosine, static_cast<double>(s.active)});
    };
    device.decode(CodeSet::main, parameters, 0.01F);
    add(device.decode_sums(CodeSet::main));
    const auto keep_gradients = [&](CodeSet set) {
        const std::vector<float> gradients = test::gradients_in(device, set);
        out.code_gradients.insert(out.code_gradients.end(), gradients.begin(), gradients.end());
    };
    keep_gradients(CodeSet::main);
    std::vector<double> residual(p.sae.n), x(p.sae.n);
    device.add_residual_columns(parameters, residual);
    out.numbers.push_back(device.output_columns(parameters, x));
    out.numbers.insert(out.numbers.end(), residual.begin(), residual.end());
    out.numbers.insert(out.numbers.end(), x.begin(), x.end());
    std::vector<std::uint32_t> dead;
    for (std::uint32_t j = 0; j < p.sae.width; j += 3) dead.push_back(j);
    device.screen_row_top(parameters, 4, dead);
    device.keep(CodeSet::auxiliary, 0, 0, false);
    out.auxiliary_codes = test::codes_of(device, CodeSet::auxiliary);
    device.decode(CodeSet::auxiliary, parameters, 0.02F);
    add(device.decode_sums(CodeSet::auxiliary));
    keep_gradients(CodeSet::auxiliary);
    const std::vector<device::SetUse> sets = {{.set = CodeSet::main}, {.set = CodeSet::auxiliary}};
    device::LatentSums sums;
    device.accumulate(sets, {}, parameters, gradient, {&sums, 1}, [](std::int64_t, std::int64_t) {});
    out.numbers.push_back(device.gradient_norm());
    out.numbers.push_back(test::square_norm(device, gradient));
    for (const auto* part : {&sums.count, &sums.value, &sums.gradient, &sums.value_gradient})
        out.numbers.insert(out.numbers.end(), part->begin(), part->end());
    out.gradient = test::get(gradient, device);
    device.update(parameters, gradient, first, second,
                  {.lr = 0.01F, .correction1 = 0.1F, .correction2 = 0.001F}, 0, width);
    out.parameters = test::get(parameters, device);
    return out;
}

TEST(Invariance, BitsDoNotDependOnTheNumberOfThreads) {
    for (const Awkward kind : {Awkward::none, Awkward::equal_latents})
        for (const bool batch_rule : {false, true})
            for (const std::size_t rows : {std::size_t{3}, test::some_rows}) {
                const test::Problem p = test::make_problem(rows, 67, 600, kind);
                const auto one = test::make_test_device(1);
                const Outcome expected = run(*one, p, batch_rule, 6);
                ASSERT_FALSE(expected.codes.empty() || expected.auxiliary_codes.empty());
                for (const int threads : test::other_threads) {
                    SCOPED_TRACE(threads);
                    const auto several = test::make_test_device(threads);
                    run(*several, p, batch_rule, 6).expect_bits_of(expected);
                }
            }
}

// SAEs of several streams, and batches of several sizes, follow one another on one device.
TEST(Invariance, BitsDoNotDependOnWhatTheDeviceDidBefore) {
    const test::Problem small = test::make_problem(5, 19, 40);
    const test::Problem middle = test::make_problem(90, 35, 300);
    const test::Problem tall =
        test::make_problem(test::many_rows, 19, 24);  // so many rows that tiles are narrower
    const auto used = test::make_test_device(2);
    for (const test::Problem* p : {&small, &tall, &middle, &tall, &small, &middle}) {
        SCOPED_TRACE(p->rows);
        const auto fresh = test::make_test_device(2);
        run(*used, *p, true, 3).expect_bits_of(run(*fresh, *p, true, 3));
    }
}

// A prepared device takes batches of fewer rows.
TEST(Invariance, ASmallerBatchLeavesNothingOfTheLarger) {
    const test::Problem large = test::make_problem(70, 20, 90);
    test::Problem small = test::make_problem(9, 20, 90);
    small.sae = large.sae;
    const auto gradient_of = [&](bool after_large) {
        const auto owner = test::make_test_device(2);
        device::Device& device = *owner;
        device.prepare(70, 20, 90, 1);
        device::Tensors parameters = test::put(large.sae, device);
        device::Tensors gradient = device::make_tensors(device, parameters);
        const device::SetUse main{.set = CodeSet::main};
        device::LatentSums sums;
        for (const test::Problem* p : {&large, static_cast<const test::Problem*>(&small)}) {
            if (p == &large && !after_large) continue;
            device.center({p->x, static_cast<std::int64_t>(p->rows)}, parameters);
            device.screen_row_top(parameters, 5, {});
            device.keep(CodeSet::main, 0, 0, false);
            device.decode(CodeSet::main, parameters, 0.1F);
            device.accumulate({&main, 1}, {}, parameters, gradient, {&sums, 1},
                              [](std::int64_t, std::int64_t) {});
        }
        return test::bits_of(test::get(gradient, device));
    };
    EXPECT_EQ(gradient_of(true), gradient_of(false));
}

// Lists of one range of rows after another, the last one shorter, against those of all rows.
TEST(Invariance, RangesOfRowsMakeTheGradientsOfTheWholeBatch) {
    constexpr std::int64_t rows = test::some_rows, width = 600;
    const test::Problem p = test::make_problem(rows, 67, width);
    std::vector<float> threshold(width), penalty(width), shrink(width);
    for (std::size_t j = 0; j < width; ++j) {
        threshold[j] = 0.05F + 0.001F * static_cast<float>(j % 50);
        penalty[j] = 0.002F * static_cast<float>(j % 3);
        shrink[j] = 0.01F * static_cast<float>(j % 5);
    }
    device::Gate gate;
    gate.threshold = threshold;
    gate.window = 0.08F;
    gate.penalty = penalty;
    gate.frozen = true;
    const std::vector<device::SetUse> uses = {
        {.set = CodeSet::main}, {.set = CodeSet::gate, .shift = gate.penalty, .decoder = false}};
    struct Result {
        std::vector<Pair> codes, window;
        double squared_error = 0, frozen_error = 0, norm = 0;
        device::LatentSums of_window;
        std::array<device::LatentSums, 2> sums;
        reference::Sae<float> gradient;
    };
    const auto by_ranges_of = [&](std::int64_t size, int threads) {
        Result out;
        const auto owner = test::make_test_device(threads);
        device::Device& device = *owner;
        device.prepare(rows, 67, width, 1);
        const device::Tensors parameters = test::put(p.sae, device);
        device::Tensors gradient = test::put(p.sae, device);  // to be overwritten
        device.center({p.x, rows}, parameters);
        std::int64_t done = 0;
        for (std::int64_t first = 0; first < rows; first += size) {
            EXPECT_EQ(done, 0) << "nothing is complete before the last range";
            device.take_rows(first, std::min(first + size, rows));
            EXPECT_TRUE(test::screen_above(device, parameters, 0.01F));
            device.keep_gate(gate, parameters, false);
            device.decode(CodeSet::gate, parameters, 0.01F);
            device.decode(CodeSet::main, parameters, 0.01F);
            device.backprop(CodeSet::window, parameters);
            device.latent_sums(CodeSet::window, out.of_window, width);
            for (const auto& [set, all] :
                 {std::pair(CodeSet::main, &out.codes), std::pair(CodeSet::window, &out.window)}) {
                const std::vector<Pair> codes = test::codes_of(device, set);
                all->insert(all->end(), codes.begin(), codes.end());
            }
            device.accumulate(uses, shrink, parameters, gradient, out.sums,
                              [&](std::int64_t from, std::int64_t to) {
                                  EXPECT_EQ(from, done);
                                  done = to;
                              });
        }
        EXPECT_EQ(done, width);
        out.frozen_error = device.decode_sums(CodeSet::gate).squared_error;
        out.squared_error = device.decode_sums(CodeSet::main).squared_error;
        out.norm = device.gradient_norm();
        out.gradient = test::get(gradient, device);
        return out;
    };
    const Result whole = by_ranges_of(rows, 2);
    ASSERT_FALSE(whole.codes.empty() || whole.window.empty());
    for (const std::int64_t size : {12, 36, 192})
        for (const int threads : {1, 3}) {
            SCOPED_TRACE(size);
            const Result found = by_ranges_of(size, threads);
            EXPECT_EQ(found.codes, whole.codes);
            EXPECT_EQ(found.window, whole.window);
            EXPECT_NEAR(found.squared_error, whole.squared_error, 1e-12 * whole.squared_error);
            EXPECT_NEAR(found.frozen_error, whole.frozen_error, 1e-12 * whole.frozen_error);
            EXPECT_NEAR(found.norm, whole.norm, 1e-6 * whole.norm);
            EXPECT_EQ(found.of_window.count, whole.of_window.count);
            EXPECT_LT(test::relative_difference(found.of_window.gradient, whole.of_window.gradient), 1e-12);
            for (std::size_t s = 0; s < 2; ++s) {
                EXPECT_EQ(found.sums[s].count, whole.sums[s].count);
                EXPECT_LT(
                    test::relative_difference(found.sums[s].value_gradient, whole.sums[s].value_gradient),
                    1e-12);
            }
            for (int i = 0; i < 4; ++i)
                EXPECT_LT(test::relative_difference(found.gradient.tensor(i), whole.gradient.tensor(i)), 1e-6)
                    << reference::Sae<float>::names[i];
        }
}

// Encoder biases of 1 and products that, added to them, fall half way between two floats: the last bit of a
// product decides to which, and the product by blocks has other last bits than the dot product that counts.
TEST(Screening, IsExactWhereTheBiasHidesTheProduct) {
    constexpr std::size_t rows = 40, n = 24, width = test::many_latents;
    test::Problem p = test::make_problem(rows, n, width);
    Random random(3, Purpose::synthetic);
    std::ranges::fill(p.x, 1.0F);
    std::ranges::fill(p.sae.b_dec, 0.0F);
    std::ranges::fill(p.sae.b_enc, 1.0F);
    for (std::size_t j = 0; j < width; ++j) {
        double sum = 0;
        for (std::size_t c = 0; c + 1 < n; ++c) sum += p.sae.w_enc[j * n + c] = 0x1p-24F * random.normal();
        p.sae.w_enc[j * n + n - 1] = static_cast<float>(0x1p-24 * static_cast<double>(1 + 2 * (j % 3)) - sum);
    }
    const auto owner = test::make_test_device(2);
    device::Device& device = *owner;
    device.prepare(rows, n, width, 1);
    const device::Tensors parameters = test::put(p.sae, device);
    device.center({p.x, rows}, parameters);
    // The widest screen returns every positive pre-activation by the value that counts.
    ASSERT_TRUE(test::screen_above(device, parameters, 0));
    const std::vector<Pair> every = test::candidates_in(device);
    ASSERT_EQ(every.size(), rows * width);
    std::vector<float> z(every.size());
    for (std::size_t i = 0; i < z.size(); ++i) z[i] = every[i].value;
    for (const std::int64_t k : {std::int64_t{1}, std::int64_t{3}, std::int64_t{8}, std::int64_t{100},
                                 static_cast<std::int64_t>(width) / 3}) {
        device.screen_row_top(parameters, k, {});
        const reference::Mask mask = reference::select_row_top(z, rows, width, static_cast<std::size_t>(k));
        std::vector<Pair> expected;
        for (std::size_t i = 0; i < z.size(); ++i)
            if (mask[i] != 0) expected.push_back(every[i]);
        EXPECT_TRUE(test::candidates_in(device) == expected) << k;
    }
    for (const float at_least : {1.0F, 1 + 0x1p-23F, 1 + 0x1p-22F, 1 + 0x1.8p-22F}) {
        ASSERT_TRUE(test::screen_above(device, parameters, at_least));
        std::vector<Pair> expected;
        for (const Pair& pair : every)
            if (pair.value >= at_least) expected.push_back(pair);
        EXPECT_TRUE(test::candidates_in(device) == expected) << at_least;
    }
}

TEST(Screening, GivesUpBeyondTheLimitAndNotBelow) {
    const test::Problem p = test::make_problem(100, 20, 200);
    for (const int threads : {1, 3}) {
        const auto owner = test::make_test_device(threads);
        device::Device& device = *owner;
        device.prepare(100, 20, 200, 1);
        const device::Tensors parameters = test::put(p.sae, device);
        device.center({p.x, 100}, parameters);
        ASSERT_TRUE(test::screen_above(device, parameters, 0.5F));
        const std::int64_t count = std::ssize(test::candidates_in(device));
        ASSERT_GT(count, 10);
        EXPECT_TRUE(test::screen_above(device, parameters, 0.5F, count));
        EXPECT_EQ(std::ssize(test::candidates_in(device)), count);
        EXPECT_FALSE(test::screen_above(device, parameters, 0.5F, count - 1));
    }
}

TEST(Screening, CapKeepsTheLargestOfEachRow) {
    const test::Problem p = test::make_problem(50, 12, 120, Awkward::equal_latents);
    const auto owner = test::make_test_device(2);
    device::Device& device = *owner;
    device.prepare(50, 12, 120, 1);
    const device::Tensors parameters = test::put(p.sae, device);
    device.center({p.x, 50}, parameters);
    for (const std::size_t cap : {1, 4, 1000}) {
        ASSERT_TRUE(test::screen_above(device, parameters, 0.1F));
        const std::vector<Pair> before = test::candidates_in(device);
        std::vector<float> z(50 * 120);
        for (const Pair& pair : before) z[pair.row * 120 + pair.latent] = pair.value;
        const reference::Mask mask = reference::select_row_top(z, 50, 120, cap);
        std::vector<Pair> expected;
        for (const Pair& pair : before)
            if (mask[pair.row * 120 + pair.latent] != 0) expected.push_back(pair);
        device.cap_rows(static_cast<std::int64_t>(cap));
        EXPECT_TRUE(test::candidates_in(device) == expected) << cap;
    }
}

TEST(Screening, HistogramOfPreActivationsCountsWhatThereIs) {
    const test::Problem p = test::make_problem(101, 24, 300);
    const auto owner = test::make_test_device(3);
    device::Device& device = *owner;
    device.prepare(101, 24, 300, 1);
    const device::Tensors parameters = test::put(p.sae, device);
    device.center({p.x, 101}, parameters);
    ASSERT_TRUE(test::screen_above(device, parameters, 0));
    std::vector<std::uint64_t> expected(2048), counts(2048, 9);
    for (const Pair& pair : test::candidates_in(device))
        ++expected[std::bit_cast<std::uint32_t>(pair.value) >> 20];
    device.pre_activation_histogram(parameters, 1000, counts);
    // A value at the edge of a bin may round into the next.
    std::uint64_t moved = 0;
    for (std::size_t i = 0; i < 2048; ++i)
        moved += counts[i] > expected[i] ? counts[i] - expected[i] : expected[i] - counts[i];
    EXPECT_LE(moved, 4U);
    device.pre_activation_histogram(parameters, 10, counts);
    std::uint64_t sampled = 0;
    std::uint64_t all = 0;
    for (std::size_t i = 0; i < 2048; ++i) {
        sampled += counts[i];
        all += expected[i];
    }
    EXPECT_NEAR(static_cast<double>(sampled) / 10, static_cast<double>(all) / 101,
                0.2 * static_cast<double>(all) / 101);
}

TEST(Screening, SelectsTheLargestOfTheCandidates) {
    const test::Problem p = test::make_problem(40, 24, 300);
    const auto owner = test::make_test_device(3);
    device::Device& device = *owner;
    device.prepare(40, 24, 300, 1);
    const device::Tensors parameters = test::put(p.sae, device);
    device.center({p.x, 40}, parameters);
    ASSERT_TRUE(test::screen_above(device, parameters, 0.3F));
    std::vector<float> values;
    for (const Pair& pair : test::candidates_in(device)) values.push_back(pair.value);
    std::ranges::sort(values, std::greater());
    const std::uint64_t available = values.size();
    const auto self = make_self_communicator();
    for (const std::uint64_t k : {std::uint64_t{1}, available / 3, available - 1, available}) {
        const Selection found = device.select_largest(*self, nullptr, k, false);
        EXPECT_EQ(found.available, available);
        EXPECT_EQ(found.threshold, values[k - 1]);
        const auto equal = std::ranges::equal_range(values, found.threshold, std::greater());
        EXPECT_EQ(found.ties_to_take, k - static_cast<std::uint64_t>(equal.begin() - values.begin()));
    }
    const Selection too_many = device.select_largest(*self, nullptr, available + 1, false);
    EXPECT_EQ(too_many.available, available);
    EXPECT_EQ(too_many.threshold, 0);
    const Selection none = device.select_largest(*self, nullptr, 0, false);
    EXPECT_EQ(none.threshold, std::numeric_limits<float>::infinity());
    EXPECT_EQ(none.ties_to_take, 0U);
}

// Thresholds per latent, as an SAE is used after training: strict, as JumpReLU is.
TEST(Screening, AGateIsStrictAndPerLatent) {
    const test::Problem p = test::make_problem(30, 12, 64);
    const auto owner = test::make_test_device(2);
    device::Device& device = *owner;
    device.prepare(30, 12, 64, 1);
    const device::Tensors parameters = test::put(p.sae, device);
    device.center({p.x, 30}, parameters);
    ASSERT_TRUE(test::screen_above(device, parameters, 0));
    const std::vector<Pair> all = test::candidates_in(device);
    std::vector<float> thresholds(64);
    for (std::size_t j = 0; j < 64; ++j) thresholds[j] = 0.01F * static_cast<float>(j);
    thresholds[all[0].latent] = all[0].value;
    std::vector<Pair> expected;
    for (const Pair& pair : all)
        if (pair.value > thresholds[pair.latent]) expected.push_back(pair);
    ASSERT_LT(expected.size(), all.size());
    device::Gate gate;
    gate.threshold = thresholds;
    device.keep_gate(gate, parameters, false);
    EXPECT_TRUE(test::codes_of(device) == expected);
}

}  // namespace
}  // namespace strata
