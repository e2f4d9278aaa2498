// How parameters begin, and what an SAE computes in use.

#include "sae/sae.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
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

TEST(Initial, RowsAreUnitTiedAndFunctionsOfSeedAndIndexAlone) {
    device::CpuDevice device(1);
    device::Tensors few = device::make_tensors(device, {.n = 33, .width = 10});
    device::Tensors many = device::make_tensors(device, {.n = 33, .width = 50});
    device::Tensors other = device::make_tensors(device, {.n = 33, .width = 50});
    std::vector<float> b_dec(33);
    for (std::size_t c = 0; c < 33; ++c) b_dec[c] = static_cast<float>(c);
    initialise(device, few, 5, b_dec, 0, 10);
    initialise(device, many, 5, b_dec, 17, 50);  // as two ranks that share it do
    initialise(device, many, 5, b_dec, 0, 17);
    initialise(device, other, 6, b_dec, 0, 50);
    const auto a = test::get(few, device);
    const auto b = test::get(many, device);
    const auto c = test::get(other, device);
    EXPECT_EQ(b.w_enc, b.w_dec);
    EXPECT_TRUE(std::ranges::equal(a.w_dec, std::span(b.w_dec).first(a.w_dec.size())));
    EXPECT_NE(b.w_dec, c.w_dec);
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
    kind_of("topk").select({device, *self, parameters, config, 40, 40, guess, margin});
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
        kind_of("batch_topk").select({device, *self, parameters, config, 40, 40, guess, margin});
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
