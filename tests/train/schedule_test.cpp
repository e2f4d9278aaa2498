#include "train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace strata::train {
namespace {

OptimizerConfig schedule(std::int64_t warmup, double decay) {
    OptimizerConfig optimizer;
    optimizer.warmup_steps = warmup;
    optimizer.decay_fraction = decay;
    return optimizer;
}

TEST(Schedule, WarmsUpLinearlyThenStaysThenFallsToZero) {
    const OptimizerConfig optimizer = schedule(50, 0.2);
    for (std::int64_t step = 0; step < 1000; ++step) {
        const double rate = rate_at(0.3, optimizer, step, 1000);
        const double expected = step < 50    ? 0.3 * static_cast<double>(step + 1) / 50
                                : step < 800 ? 0.3
                                             : 0.3 * static_cast<double>(1000 - step) / 200;
        EXPECT_NEAR(rate, expected, 1e-12) << step;
    }
    EXPECT_GT(rate_at(0.3, optimizer, 999, 1000), 0) << "the last step counts too";
    EXPECT_NEAR(rate_at(0.3, optimizer, 999, 1000), 0, 0.3 / 100);
}

TEST(Schedule, NoStepIsWithoutRateOrAboveIt) {
    for (const std::int64_t steps : {1, 2, 9, 10, 11, 100})
        for (const std::int64_t warmup : {0, 1, 5, 1000})
            for (const double decay : {0.0, 0.2, 1.0})
                for (std::int64_t step = 0; step < steps; ++step) {
                    const double rate = rate_at(2, schedule(warmup, decay), step, steps);
                    EXPECT_GT(rate, 0) << steps << " " << warmup << " " << decay << " " << step;
                    EXPECT_LE(rate, 2) << steps << " " << warmup << " " << decay << " " << step;
                }
}

TEST(Schedule, WarmUpIsAtMostATenthOfTheRun) {
    EXPECT_EQ(warmup_steps(schedule(1000, 0.2), 100000), 1000);
    EXPECT_EQ(warmup_steps(schedule(1000, 0.2), 10000), 1000);
    EXPECT_EQ(warmup_steps(schedule(1000, 0.2), 5000), 500);
    EXPECT_EQ(warmup_steps(schedule(1000, 0.2), 9), 0);
    EXPECT_EQ(warmup_steps(schedule(0, 0.2), 5000), 0);
    EXPECT_DOUBLE_EQ(rate_at(1, schedule(1000, 0), 499, 5000), 1);
}

TEST(Schedule, WithoutWarmUpAndDecayTheRateIsConstant) {
    for (std::int64_t step = 0; step < 20; ++step) EXPECT_EQ(rate_at(0.1, schedule(0, 0), step, 20), 0.1);
}

SaeConfig shape(const char* kind, std::int64_t width) {
    SaeConfig sae;
    sae.kind = kind;
    sae.width = width;
    return sae;
}

TEST(AutomaticRate, FallsWithTokensAndWidthAndGrowsWithTheBatch) {
    for (const char* kind : {"topk", "jumprelu", "gated"}) {
        const SaeConfig sae = shape(kind, 16384);
        double before = automatic_rate(sae, 4096, 1);
        for (std::int64_t tokens = 10; tokens <= 10'000'000'000; tokens *= 10) {
            const double rate = automatic_rate(sae, 4096, tokens);
            EXPECT_LE(rate, before);
            if (tokens > 500'000) {
                EXPECT_LT(rate, before);
            }
            before = rate;
        }
        EXPECT_GT(before, 0);
        EXPECT_NEAR(automatic_rate(shape(kind, 65536), 4096, 1'000'000'000),
                    automatic_rate(sae, 4096, 1'000'000'000) / 2, 1e-12);
        EXPECT_NEAR(automatic_rate(sae, 8192, 1'000'000'000),
                    automatic_rate(sae, 4096, 1'000'000'000) * std::sqrt(2.0), 1e-12);
        EXPECT_EQ(automatic_rate(shape(kind, 2304), 1024, 500'000),
                  automatic_rate(shape(kind, 2304), 1024, 1))
            << "never above what short runs take";
    }
    EXPECT_NEAR(automatic_rate(shape("batch_topk", 2304), 1024, 500'000), 3e-3, 1e-15);
}

TEST(AutomaticRate, IsThePapersAtThePapersLengths) {
    EXPECT_NEAR(automatic_rate(shape("batch_topk", 12288), 4096, 1'000'000'000), 3e-4, 0.1e-4);
    EXPECT_NEAR(automatic_rate(shape("jumprelu", 16384), 4096, 4'000'000'000), 7e-5, 0.1e-5);
    EXPECT_NEAR(automatic_rate(shape("gated", 131072), 4096, 1'200'000'000), 3e-4, 0.1e-4);
    EXPECT_NEAR(automatic_rate(shape("relu", 16384), 2048, 500'000'000), 3e-4, 0.1e-4);
}

TEST(Schedule, CosineWarmUpRisesFromATenth) {
    OptimizerConfig optimizer = schedule(100, 0);
    optimizer.warmup = "cosine";
    EXPECT_NEAR(rate_at(1, optimizer, 0, 2000), 0.1 + 0.9 * (1 - std::cos(M_PI / 100)) / 2, 1e-12);
    EXPECT_NEAR(rate_at(1, optimizer, 49, 2000), 0.55, 1e-12);
    EXPECT_EQ(rate_at(1, optimizer, 99, 2000), 1);
    EXPECT_EQ(rate_at(1, optimizer, 1500, 2000), 1);
}

TEST(Schedule, AveragesNeedNoDecay) {
    OptimizerConfig optimizer = schedule(0, 0.5);
    for (const char* kind : {"adam_schedule_free", "signum"}) {
        optimizer.kind = kind;
        EXPECT_EQ(rate_at(1, optimizer, 999, 1000), 1);
    }
}

}  // namespace
}  // namespace strata::train
