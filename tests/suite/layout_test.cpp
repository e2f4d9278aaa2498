// The division of ranks and SAEs, against plain counting and hand-made cases.

#include "suite/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "suite/suite.h"
#include "support/datasets.h"

namespace strata::suite {
namespace {

bool always(const Layout&) {
    return true;
}

Config config_of(std::vector<std::int64_t> widths) {
    Config config;
    for (const std::int64_t width : widths) {
        SaeConfig& sae = config.saes.emplace_back();
        sae.width = width;
        sae.k = static_cast<double>(config.saes.size());  // for names of their own
    }
    return config;
}

TEST(Groups, HoldEveryRankOnceAndDifferByOneAtMost) {
    for (int ranks = 1; ranks <= 17; ++ranks)
        for (int groups = 1; groups <= ranks; ++groups) {
            int next = 0;
            for (int g = 0; g < groups; ++g) {
                const Ranks of_group = ranks_of(g, groups, ranks);
                EXPECT_EQ(of_group.first, next);
                EXPECT_GE(of_group.size(), ranks / groups);
                EXPECT_LE(of_group.size(), ranks / groups + 1);
                for (; next < of_group.last; ++next) EXPECT_EQ(group_of(next, groups, ranks), g);
            }
            EXPECT_EQ(next, ranks);
        }
}

TEST(Makespan, TakesTheLongestJobFirst) {
    EXPECT_DOUBLE_EQ(makespan({1, 2, 3}, 1, 1), 6);
    EXPECT_DOUBLE_EQ(makespan({1, 2, 3}, 2, 2), 3);
    EXPECT_DOUBLE_EQ(makespan({3, 3, 2, 2, 2}, 2, 2), 7);  // 3 + 2 + 2 beside 3 + 2, though 6 is possible
    EXPECT_DOUBLE_EQ(makespan({4}, 1, 2), 4 / speed_of(2));
}

TEST(Turns, AreTakenByTheGroupThatIsFreeFirst) {
    const std::vector<Turn> turns =
        turns_of({2, 0, 1, 3}, 2, [](std::size_t job, int group) { return 4.0 - group - 0.5 * job; });
    ASSERT_EQ(turns.size(), 4U);  // lengths on groups 0 and 1: 4 or 3, 3.5 or 2.5, 3 or 2, 2.5 or 1.5
    EXPECT_EQ(turns[0].job, 2U);
    EXPECT_EQ(turns[0].group, 0);
    EXPECT_EQ(turns[0].end, 3);
    EXPECT_EQ(turns[1].group, 1);
    EXPECT_EQ(turns[1].end, 3);
    EXPECT_EQ(turns[2].group, 0);  // both are free
    EXPECT_EQ(turns[2].start, 3);
    EXPECT_EQ(turns[2].end, 6.5);
    EXPECT_EQ(turns[3].group, 1);
    EXPECT_EQ(turns[3].end, 4.5);
}

TEST(Layout, OneJobHasAllRanks) {
    EXPECT_EQ(layout_of(config_of({64}), test::datasets_of(1), 4, always), (Layout{1, 1}));
}

TEST(Layout, AsManyDatasetsAsRanksAreTrainedSideBySide) {
    EXPECT_EQ(layout_of(config_of({64}), test::datasets_of(4), 4, always), (Layout{4, 1}));
    EXPECT_EQ(layout_of(config_of({64}), test::datasets_of(40), 4, always), (Layout{4, 1}));
}

TEST(Layout, SaesOfADatasetStayOnOneStreamWhereTheyCan) {
    EXPECT_EQ(layout_of(config_of({64, 64}), test::datasets_of(30), 2, always), (Layout{2, 2}));
    EXPECT_EQ(layout_of(config_of({64, 64, 64}), test::datasets_of(1), 1, always), (Layout{1, 3}));
}

TEST(Layout, SaesOfOneDatasetAreDividedWhereThatEndsATenthSooner) {
    EXPECT_EQ(layout_of(config_of({64, 64, 64, 64}), test::datasets_of(1), 4, always), (Layout{4, 1}));
}

TEST(Layout, TakesWhatTheConfigurationSays) {
    Config config = config_of({64, 64});
    config.parallel.groups = 3;
    config.parallel.saes_per_job = 1;
    EXPECT_EQ(layout_of(config, test::datasets_of(2), 4, always), (Layout{3, 1}));
    config.parallel.groups = {};
    config.parallel.data = 2;
    EXPECT_EQ(layout_of(config, test::datasets_of(2), 4, always), (Layout{2, 1}));
}

TEST(Layout, KeepsToWhatFits) {
    const auto small = [](const Layout& layout) { return layout.groups <= 2; };
    EXPECT_EQ(layout_of(config_of({64, 64}), test::datasets_of(8), 4, small), (Layout{2, 2}));
}

TEST(Layout, IsNoneWhereNothingFits) {
    const auto never = [](const Layout&) { return false; };
    EXPECT_EQ(layout_of(config_of({64, 64}), test::datasets_of(8), 4, never), std::nullopt);
}

std::string refusal(const ParallelConfig& parallel, int ranks) {
    Config config = config_of({64});
    config.parallel = parallel;
    try {
        layout_of(config, test::datasets_of(2), ranks, always);
    } catch (const UsageError& error) {
        return error.what();
    }
    return "";
}

TEST(Layout, RefusesNumbersThatDoNotGoWithTheRanks) {
    EXPECT_THAT(refusal({.groups = 3}, 2),
                testing::HasSubstr("parallel.groups: 3 groups asked for, 2 ranks"));
    EXPECT_THAT(refusal({.data = 3}, 4), testing::HasSubstr("parallel.data: groups of 3 ranks asked for"));
    EXPECT_THAT(refusal({.groups = 2, .data = 2}, 2), testing::HasSubstr("groups 2 x data 2 are 4 ranks"));
    EXPECT_THAT(refusal({.groups = 2, .data = 1}, 4), testing::HasSubstr("groups 2 x data 1 are 2 ranks"));
}

TEST(Jobs, DivideADatasetEvenlyAndNameTheParts) {
    const std::vector<Job> jobs = jobs_of(config_of({16, 32, 48, 64, 80}), test::datasets_of(2), 2);
    ASSERT_EQ(jobs.size(), 6U);
    EXPECT_EQ(jobs[0].name, "resid_post.0.1");
    EXPECT_EQ(jobs[5].name, "resid_post.1.3");
    EXPECT_THAT(jobs[0].names, testing::ElementsAre("resid_post.0.batch_topk.w16.k1"));
    EXPECT_THAT(jobs[1].names,
                testing::ElementsAre("resid_post.0.batch_topk.w32.k2", "resid_post.0.batch_topk.w48.k3"));
    EXPECT_EQ(jobs_of(config_of({16, 32}), test::datasets_of(1), 2)[0].name, "resid_post.0");
}

TEST(Jobs, HaveNamesOfTheirOwn) {
    std::vector<data::Dataset> datasets = test::datasets_of(2);
    datasets[1].name = "resid_post.0";
    try {
        jobs_of(config_of({16}), datasets, 1);
        FAIL() << "resid_post/0 and resid_post.0 have the same folders";
    } catch (const UsageError& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr("named 'resid_post.0'"));
    }
}

TEST(Jobs, AreHandedOutTheMostCostlyFirst) {
    const std::vector<Job> jobs = jobs_of(config_of({16, 64, 32}), test::datasets_of(2), 1);
    EXPECT_THAT(order_of(jobs), testing::ElementsAre(1, 4, 2, 5, 0, 3));
}

}  // namespace
}  // namespace strata::suite
