// How parameters begin, and what an SAE computes in use.

#include "sae/sae.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "comm/self.h"
#include "device/cpu/cpu_device.h"
#include "support/inside.h"
#include "support/problem.h"

namespace strata::sae {
namespace {

using device::CodeSet;
using test::Pair;

TEST(Kinds, EachIsFoundByItsName) {
    std::set<std::string_view> names;
    for (const Kind& kind : kinds()) {
        EXPECT_EQ(&kind_of(kind.name), &kind);
        EXPECT_TRUE(names.insert(kind.name).second) << kind.name << " twice";
    }
    EXPECT_EQ(names,
              (std::set<std::string_view>{"relu", "topk", "batch_topk", "jumprelu", "gated", "matryoshka"}));
    EXPECT_THROW(kind_of("tanh"), RunError);
}

TEST(Kinds, CodesOfABatchAreRoundedHalvesUp) {
    EXPECT_EQ(codes_of_batch(64, 4096), 64 * 4096);
    EXPECT_EQ(codes_of_batch(0.25, 10), 3);
    EXPECT_EQ(codes_of_batch(0.24, 10), 2);
    EXPECT_EQ(codes_of_batch(12.5, 3), 38);
    EXPECT_EQ(codes_of_batch(100, 1'000'000'000), 100'000'000'000);
}

TEST(Auxiliary, TakesHalfOfARowsLengthOfCodesUnlessConfigured) {
    SaeConfig config;
    config.width = 4096;
    for (const char* kind : {"topk", "batch_topk", "matryoshka"}) {
        config.kind = kind;
        EXPECT_EQ(sae::auxiliary_codes(config, 576), 288);
        EXPECT_EQ(sae::auxiliary_codes(config, 2304), 512);
    }
    config.width = 100;
    EXPECT_EQ(sae::auxiliary_codes(config, 576), 100);
    config.aux_k = 7;
    EXPECT_EQ(sae::auxiliary_codes(config, 576), 7);
    config.aux_k.reset();
    for (const char* kind : {"relu", "jumprelu", "gated"}) {
        config.kind = kind;
        EXPECT_EQ(sae::auxiliary_codes(config, 576), 0);
    }
}

TEST(Auxiliary, LatentsAreDeadAfterAShareOfTheRunUnlessConfigured) {
    SaeConfig config;
    EXPECT_EQ(dead_after(config, 614'400), 19'200U);
    EXPECT_EQ(dead_after(config, 4'000'000'000), 10'000'000U);
    EXPECT_EQ(dead_after(config, 1), 1U) << "a latent that has just fired is alive";
    config.dead_after_tokens = 500;
    EXPECT_EQ(dead_after(config, 614'400), 500U);
}

TEST(Initial, RowsAreUnitTiedAndFunctionsOfSeedAndIndexAlone) {
    device::CpuDevice device(1);
    device::Tensors few = device::make_tensors(device, {.n = 33, .width = 10});
    device::Tensors many = device::make_tensors(device, {.n = 33, .width = 50});
    device::Tensors other = device::make_tensors(device, {.n = 33, .width = 50});
    std::vector<float> b_dec(33);
    for (std::size_t c = 0; c < 33; ++c) b_dec[c] = static_cast<float>(c);
    initialise(device, few, 5, b_dec, {}, 0, 10);
    initialise(device, many, 5, b_dec, {}, 17, 50);  // as two ranks that share it do
    initialise(device, many, 5, b_dec, {}, 0, 17);
    initialise(device, other, 6, b_dec, {.norm = 0.25}, 0, 50);
    const auto a = test::get(few, device);
    const auto b = test::get(many, device);
    const auto c = test::get(other, device);
    EXPECT_EQ(b.w_enc, b.w_dec);
    EXPECT_TRUE(std::ranges::equal(a.w_dec, std::span(b.w_dec).first(a.w_dec.size())));
    EXPECT_NE(b.w_dec, c.w_dec);
    for (std::size_t i = 0; i < c.w_enc.size(); ++i) ASSERT_NEAR(c.w_enc[i], 0.25 * c.w_dec[i], 1e-8);
    EXPECT_EQ(b.b_dec, b_dec);
    EXPECT_EQ(b.b_enc, std::vector<float>(50, 0));
    double most = 0;
    for (std::size_t j = 0; j < 50; ++j) {
        double square = 0;
        for (std::size_t i = 0; i < 33; ++i) square += std::pow(static_cast<double>(b.w_dec[j * 33 + i]), 2);
        EXPECT_NEAR(std::sqrt(square), 1, 1e-6);
        for (std::size_t k = 0; k < j; ++k) {
            double dot = 0;
            for (std::size_t i = 0; i < 33; ++i)
                dot += static_cast<double>(b.w_dec[j * 33 + i]) * b.w_dec[k * 33 + i];
            most = std::max(most, std::abs(dot));
        }
    }
    EXPECT_LT(most, 0.8) << "two latents begin alike";
}

// [rows, n] in random directions.
std::vector<float> random_rows(std::int64_t rows, std::int64_t n, double length, std::uint64_t seed) {
    std::vector<float> values(static_cast<std::size_t>(rows * n));
    for (std::int64_t i = 0; i < rows; ++i) {
        Random random(seed, Purpose::synthetic, static_cast<std::uint64_t>(i));
        const std::span<float> row =
            std::span(values).subspan(static_cast<std::size_t>(i * n), static_cast<std::size_t>(n));
        for (float& v : row) v = random.normal();
        const double norm = std::sqrt(std::inner_product(row.begin(), row.end(), row.begin(), 0.0));
        for (float& v : row) v *= static_cast<float>(length / norm);
    }
    return values;
}

// Rows for every block of latents and a part of one, from two slices of the width.
TEST(Initial, AMapLeadsFromInputsToTheDecodersDirections) {
    constexpr std::int64_t n = 9, width = 150;
    constexpr double norm = 0.4;
    device::CpuDevice device(2);
    device::Shape shape{.n = n, .width = width};
    shape.transcoder = true;
    device::Tensors t = device::make_tensors(device, shape);
    const std::vector<float> map = random_rows(n, n, 3, 4), offset = random_rows(1, n, 2, 5), b_dec(n, 0.5F);
    for (const auto& [first, last] : {std::pair(0, 70), std::pair(70, 150)})
        initialise(device, t, 8, b_dec, {.norm = norm, .map = map, .offset = offset}, first, last);
    const std::vector<float> w_dec = host_copy(device, t.w_dec), w_enc = host_copy(device, t.w_enc);
    const std::vector<float> b_enc = host_copy(device, t.b_enc);
    device::Tensors whole = device::make_tensors(device, shape);
    initialise(device, whole, 8, b_dec, {.norm = norm, .map = map, .offset = offset}, 0, width);
    EXPECT_EQ(host_copy(device, whole.w_enc), w_enc) << "the bits do not depend on the slices";
    for (std::size_t j = 0; j < width; ++j) {
        const float* d = &w_dec[j * n];
        EXPECT_NEAR(std::inner_product(d, d + n, d, 0.0), 1, 1e-6);
        EXPECT_NEAR(b_enc[j], norm * std::inner_product(d, d + n, offset.begin(), 0.0), 1e-6);
        for (std::size_t c = 0; c < n; ++c)
            EXPECT_NEAR(w_enc[j * n + c], norm * std::inner_product(d, d + n, &map[c * n], 0.0), 1e-6);
    }
}

// Rows in random directions and latents in others: what the theory of Beginning is about. The rows'
// reconstruction by the codes that it begins with, over encoder_norm, has the squared length `over` and
// stands `along` the rows.
struct Begun {
    double codes = 0, along = 0, over = 0, square = 0;  // sums over rows
};

Begun begun_with(const Beginning& begin, std::int64_t rows, std::int64_t n, std::int64_t width) {
    constexpr double length = 1.7;
    const std::vector<float> w = random_rows(width, n, 1, 1), x = random_rows(rows, n, length, 2);
    Begun sums;
    for (std::int64_t b = 0; b < rows; ++b) {
        const std::span<const float> row = std::span(x).subspan(b * n, n);
        std::vector<double> sum(n);
        for (std::int64_t j = 0; j < width; ++j) {
            const std::span<const float> latent = std::span(w).subspan(j * n, n);
            const double z = std::inner_product(row.begin(), row.end(), latent.begin(), 0.0);
            if (z * begin.encoder_norm <= begin.theta * length) continue;
            ++sums.codes;
            for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += z * latent[c];
        }
        for (std::size_t c = 0; c < sum.size(); ++c) {
            sums.along += row[c] * sum[c];
            sums.over += sum[c] * sum[c];
            sums.square += static_cast<double>(row[c]) * row[c];
        }
    }
    return sums;
}

TEST(Initial, EncoderAndThresholdsBeginWhereRandomDirectionsReconstructBest) {
    constexpr std::int64_t n = 256, width = 6000, rows = 100;
    for (const auto& [config, codes] :
         {std::pair(SaeConfig{.kind = "jumprelu", .width = width, .l0_target = 20}, 20),
          std::pair(SaeConfig{.kind = "gated", .width = width}, 3000),
          std::pair(SaeConfig{.kind = "relu", .width = width}, 3000)}) {
        const Beginning begin = beginning_of(config, {.n = n, .width = width});
        const Begun sums = begun_with(begin, rows, n, width);
        EXPECT_NEAR(sums.codes / rows, codes, 0.1 * codes) << config.kind;
        EXPECT_NEAR(begin.encoder_norm, sums.along / sums.over, 0.03 * sums.along / sums.over) << config.kind;
        const double c = begin.encoder_norm;
        EXPECT_GT(sums.over, sums.square)
            << "as long as the decoder's, encoder rows would begin with more error than none";
        const double error = sums.square - 2 * c * sums.along + c * c * sums.over;
        EXPECT_NEAR(error, c * sums.square, 0.1 * c * sums.square) << config.kind;
    }
}

TEST(Jumprelu, TheWindowNarrowsAsTheSaeWidens) {
    EXPECT_EQ(bandwidth_of({.kind = "jumprelu", .width = 100}), 0.02);
    EXPECT_EQ(bandwidth_of({.kind = "jumprelu", .width = 2304}), 0.02);
    EXPECT_DOUBLE_EQ(bandwidth_of({.kind = "jumprelu", .width = 23040}), 0.002);
    EXPECT_EQ(bandwidth_of({.kind = "jumprelu", .width = 23040, .bandwidth = 0.3}), 0.3);
}

TEST(Initial, TheConfigurationDecidesWhereEncoderAndThresholdsBegin) {
    const device::Shape shape{.n = 64, .width = 4096};
    device::Shape transcoder = shape;
    transcoder.transcoder = true;
    for (const char* kind : {"topk", "batch_topk", "matryoshka", "jumprelu"}) {
        SaeConfig config{.kind = kind, .k = 40, .l0_target = 40};
        const Beginning begin = beginning_of(config, shape);
        EXPECT_EQ(begin.encoder_norm, beginning_of({.kind = "topk", .k = 40}, shape).encoder_norm);
        EXPECT_LT(begin.encoder_norm, 0.5) << kind;
        EXPECT_EQ(beginning_of(config, transcoder).encoder_norm, begin.encoder_norm) << kind;
        config.encoder_init = "random";
        EXPECT_EQ(beginning_of(config, transcoder).encoder_norm, 1) << kind;
        config.encoder_norm = 2;
        EXPECT_EQ(beginning_of(config, shape).encoder_norm, 2);
        EXPECT_NEAR(beginning_of(config, shape).theta, 2 / begin.encoder_norm * begin.theta, 1e-12);
    }
    for (const char* kind : {"relu", "gated"}) {
        EXPECT_EQ(beginning_of({.kind = kind}, shape).encoder_norm, 1.0 / (1 + 4096.0 / 64 / 2)) << kind;
        EXPECT_EQ(beginning_of({.kind = kind, .encoder_init = "random"}, transcoder).encoder_norm, 1) << kind;
        EXPECT_EQ(beginning_of({.kind = kind, .encoder_norm = 2}, shape).encoder_norm, 2) << kind;
    }
    device::Shape free = shape;
    free.unit_rows = false;  // rows of 0.1 reconstruct a hundredth of the row for each that unit rows would
    EXPECT_EQ(beginning_of({.kind = "relu"}, free).encoder_norm, 1);
    free.width = 100 * shape.width;
    EXPECT_NEAR(beginning_of({.kind = "relu"}, free).encoder_norm, 100 / (1 + 3200.0), 1e-12);
    EXPECT_EQ(beginning_of({.kind = "topk", .k = 4096}, shape).theta, 0) << "all that are positive";
}

struct InUse : testing::Test {
    test::Problem p = test::make_problem(40, 24, 200);
    device::CpuDevice device{2};
    device::Tensors parameters;
    std::vector<Pair> positive;

    void SetUp() override {
        device.prepare(40, 24, 200, 1);
        parameters = test::put(p.sae, device);
        device.center({p.x, 40}, parameters);
        ASSERT_TRUE(test::screen_above(device, parameters, 0));
        positive = test::candidates_in(device);
    }
};

TEST_F(InUse, ThresholdKeepsWhatIsAboveIt) {
    for (const float lowest : {-1.0F, 0.0F, 0.3F}) {
        std::vector<float> thresholds(200);
        for (std::size_t j = 0; j < 200; ++j) thresholds[j] = lowest + 0.005F * static_cast<float>(j % 7);
        std::vector<Pair> expected;
        for (const Pair& pair : positive)
            if (pair.value > thresholds[pair.latent]) expected.push_back(pair);
        apply_inference(device, parameters, false, 0, thresholds);
        EXPECT_TRUE(test::codes_of(device) == expected) << lowest;
    }
}

TEST_F(InUse, RowTopIsTheTrainingRuleOfTopk) {
    apply_inference(device, parameters, true, 6, {});
    const std::vector<Pair> used = test::codes_of(device);
    const auto self = make_self_communicator();
    SaeConfig config;
    config.k = 6;
    float guess = 0;
    float margin = 0;
    kind_of("topk").select({device, *self, nullptr, parameters, config, 40, 40, guess, margin});
    EXPECT_TRUE(test::codes_of(device) == used);
    EXPECT_GT(used.size(), 200U);
}

// A JumpReLU with the batch's own threshold selects what the batch rule did, but for the smallest (strictly
// above).
TEST_F(InUse, ThresholdOfTheBatchSelectsTheBatch) {
    const auto self = make_self_communicator();
    SaeConfig config;
    config.k = 6;
    float guess = 0;
    float margin = 0;
    const float threshold =
        kind_of("batch_topk").select({device, *self, nullptr, parameters, config, 40, 40, guess, margin});
    const std::vector<Pair> trained = test::codes_of(device);
    EXPECT_EQ(trained.size(), 240U);
    EXPECT_EQ(std::ranges::min(trained, {}, &Pair::value).value, threshold);
    apply_inference(device, parameters, false, 0, std::vector<float>(200, threshold));
    EXPECT_EQ(test::codes_of(device).size(), 239U);
    apply_inference(device, parameters, false, 0, std::vector<float>(200, std::nextafter(threshold, 0.0F)));
    EXPECT_TRUE(test::codes_of(device) == trained);
}

}  // namespace
}  // namespace strata::sae
