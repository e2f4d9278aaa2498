#include "base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

namespace strata {
namespace {

std::vector<std::uint32_t> draw(Random random, int count) {
    std::vector<std::uint32_t> out;
    for (int i = 0; i < count; ++i) out.push_back(random.bits());
    return out;
}

TEST(Random, IsAFunctionOfSeedPurposeAndStream) {
    const auto base = draw(Random(1, Purpose::synthetic, 2), 9);
    EXPECT_EQ(draw(Random(1, Purpose::synthetic, 2), 9), base);
    EXPECT_NE(draw(Random(2, Purpose::synthetic, 2), 9), base);
    EXPECT_NE(draw(Random(1, Purpose::row_order, 2), 9), base);
    EXPECT_NE(draw(Random(1, Purpose::synthetic, 3), 9), base);
    EXPECT_NE(draw(Random(1 + (std::uint64_t{1} << 32), Purpose::synthetic, 2), 9), base);
    EXPECT_NE(draw(Random(1, Purpose::synthetic, 2 + (std::uint64_t{1} << 32)), 9), base);
}

// A resumed run and another compiler must draw these.
TEST(Random, HasTheKnownAnswersOfPhilox) {
    Random zero(0, Purpose{}, 0);
    EXPECT_EQ(draw(zero, 4), (std::vector<std::uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
}

TEST(Random, StreamsShareNoNumbersToSpeakOf) {
    std::set<std::uint32_t> seen;
    for (const Purpose purpose :
         {Purpose::initial_weights, Purpose::chunk_order, Purpose::row_order, Purpose::synthetic})
        for (std::uint64_t stream = 0; stream < 25; ++stream)
            for (const std::uint32_t v : draw(Random(9, purpose, stream), 40)) seen.insert(v);
    EXPECT_GT(seen.size(), 3990U);  // of 4000; equal ones by chance
}

TEST(Random, UniformsFillTheUnitInterval) {
    Random random(3, Purpose::synthetic);
    std::vector<int> tenths(10);
    for (int i = 0; i < 20000; ++i) {
        const float u = random.uniform();
        ASSERT_GE(u, 0);
        ASSERT_LT(u, 1);
        ++tenths[static_cast<std::size_t>(u * 10)];
    }
    for (const int count : tenths) EXPECT_NEAR(count, 2000, 200);
}

TEST(Random, NormalsHaveTheirMomentsAndAreFinite) {
    Random random(4, Purpose::synthetic);
    double sum = 0, square = 0, fourth = 0;
    for (int i = 0; i < 50000; ++i) {
        const double v = random.normal();
        ASSERT_TRUE(std::isfinite(v));
        sum += v;
        square += v * v;
        fourth += v * v * v * v;
    }
    EXPECT_NEAR(sum / 50000, 0, 0.02);
    EXPECT_NEAR(square / 50000, 1, 0.03);
    EXPECT_NEAR(fourth / 50000, 3, 0.3);
}

TEST(Random, BelowStaysBelowAndReachesAll) {
    Random random(5, Purpose::synthetic);
    std::vector<int> counts(7);
    for (int i = 0; i < 7000; ++i) ++counts[random.below(7)];
    for (const int count : counts) EXPECT_NEAR(count, 1000, 150);
    EXPECT_EQ(random.below(1), 0U);
}

TEST(Random, ShuffleIsAPermutationThatDependsOnTheStream) {
    std::vector<int> a(100);
    std::iota(a.begin(), a.end(), 0);
    std::vector<int> b = a;
    const std::vector<int> sorted = a;
    shuffle(std::span(a), Random(6, Purpose::row_order, 1));
    shuffle(std::span(b), Random(6, Purpose::row_order, 2));
    EXPECT_NE(a, b);
    EXPECT_NE(a, sorted);
    std::ranges::sort(a);
    EXPECT_EQ(a, sorted);
    std::vector<int> none;
    shuffle(std::span(none), Random(6, Purpose::row_order, 1));
}

}  // namespace
}  // namespace strata
