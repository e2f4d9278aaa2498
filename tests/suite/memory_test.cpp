// What ranks are said to take, and what is done where it is too much, with made-up hosts.

#include "suite/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "suite/gpu_memory.h"
#include "support/datasets.h"

namespace strata::suite {
namespace {

constexpr std::int64_t mib = std::int64_t{1} << 20;

Config config_of(const std::vector<std::int64_t>& widths) {
    Config config;
    config.train.batch_size = 256;
    config.data.eval_rows = 0;
    config.data.shuffle_rows = 1024;
    for (const std::int64_t width : widths) {
        SaeConfig& sae = config.saes.emplace_back();
        sae.width = width;
        sae.k = 8;
    }
    return config;
}

Job job_of(const Config& config) {
    return jobs_of(config, test::datasets_of(1), std::ssize(config.saes)).front();
}

TEST(Place, CountsTheRanksOfAGroupOnItsHosts) {
    const Machine machine = equal_hosts(8, 4, 1, 2);
    EXPECT_EQ(machine.memory.size(), 2U);
    EXPECT_EQ(place_of(machine, {0, 4}), (Place{4, 4, 1, 4, 2}));
    EXPECT_EQ(place_of(machine, {0, 8}), (Place{8, 4, 2, 4, 2}));
    // Hosts with different numbers of a group's ranks: each of them holds all.
    EXPECT_EQ(place_of(machine, {2, 5}), (Place{3, 2, 2, 1, 2}));
}

TEST(RankMemory, RanksOfAHostShareWeightsMomentsAndGradients) {
    const Config config = config_of({32768, 16384});
    const Job job = job_of(config);
    const std::int64_t matrix = 4 * 64 * 32768;  // bytes of the wider
    const RankMemory alone = rank_memory(job, config, {}, true);
    EXPECT_EQ(alone.weights, 3 * (matrix + matrix / 8 + 24 * 32768 / 2));  // two matrices, and bytes of one
    EXPECT_EQ(alone.moments, 6 * matrix);
    const RankMemory two = rank_memory(job, config, {.ranks = 2, .on_host = 2, .sharing = 2}, true);
    EXPECT_EQ(two.weights, alone.weights / 2);
    EXPECT_EQ(two.moments, alone.moments / 2);
    EXPECT_EQ(alone.gradients - two.gradients, matrix);
    EXPECT_GE(two.gradients, matrix);
    EXPECT_GT(two.rows, alone.rows / 2);  // and a part of the host's batch
    EXPECT_LT(two.stream, alone.stream);
    const RankMemory apart = rank_memory(job, config, {.ranks = 2, .hosts = 2}, true);
    EXPECT_EQ(apart.weights, alone.weights);
    EXPECT_EQ(apart.checkpoint, two.checkpoint);  // each saves a half of the latents
}

// GPUs hold all weights each, and moments of the latents that they update.
TEST(RankMemory, GpusDivideMomentsAlone) {
    const Config config = config_of({32768, 16384});
    const Job job = job_of(config);
    const RankMemory alone = gpu_memory(job, config, {.on_gpus = true});
    const RankMemory four = gpu_memory(job, config, {.ranks = 4, .on_gpus = true});
    EXPECT_EQ(four.weights, alone.weights);
    EXPECT_EQ(four.vectors, alone.vectors);
    EXPECT_EQ(four.gradients, alone.gradients);
    EXPECT_EQ(four.moments, alone.moments / 4);
}

TEST(RankMemory, IsTheSumOfItsParts) {
    const Config config = config_of({4096});
    const RankMemory memory = rank_memory(job_of(config), config, {}, true);
    std::int64_t sum = 0;
    for (const RankMemory::Part& part : memory.parts()) {
        EXPECT_GE(part.bytes, 0) << part.name;
        sum += part.bytes;
    }
    EXPECT_EQ(memory.total(), sum);
}

TEST(FullestHost, AddsUpTheGroupsOfAHostEachWithAnotherJob) {
    Config config = config_of({4096});
    std::vector<Job> jobs = jobs_of(config, test::datasets_of(2), 1);
    jobs[1].saes.front().width = 8192;
    const Machine machine = equal_hosts(2, 2, 1000 * mib, 1);
    const std::int64_t small = rank_memory(jobs[0], config, {}, true).total();
    const std::int64_t large = rank_memory(jobs[1], config, {}, true).total();
    const HostLoad both = fullest_host(config, jobs, 2, machine);
    EXPECT_EQ(both.needed, small + large);
    EXPECT_EQ(both.job, 1U);
    EXPECT_EQ(both.room, 900 * mib);
    const HostLoad spread = fullest_host(config, jobs, 2, equal_hosts(2, 1, 1000 * mib, 1));
    EXPECT_EQ(spread.needed, large);
    const Place of_two{.ranks = 2, .on_host = 2, .sharing = 2};
    EXPECT_EQ(fullest_host(config, jobs, 1, machine).needed,
              rank_memory(jobs[1], config, of_two, true).total() +
                  rank_memory(jobs[1], config, of_two, false).total());
}

// A host in which the ranks may fill so much.
Machine machine_with(int ranks, std::int64_t room) {
    return equal_hosts(ranks, ranks, room / 9 * 10 + 10, 1);
}

TEST(LayoutInMemory, PacksSaesOnAStreamAsFarAsThereIsRoom) {
    const Config config = config_of({65536, 65536, 65536, 65536});
    const auto needed = [&](std::int64_t saes) {
        return fullest_host(config, jobs_of(config, test::datasets_of(1), saes), 1, machine_with(1, 0))
            .needed;
    };
    for (const std::int64_t saes : {4, 2, 1})
        EXPECT_EQ(layout_in_memory(config, test::datasets_of(1), machine_with(1, needed(saes))),
                  (Layout{1, saes}));
    EXPECT_EQ(layout_in_memory(config, test::datasets_of(1), machine_with(1, needed(2) - 100)),
              (Layout{1, 1}));
}

TEST(LayoutInMemory, MakesFewerGroupsWhereTheirJobsHaveNoRoomBesideEachOther) {
    const Config config = config_of({65536});
    EXPECT_EQ(layout_in_memory(config, test::datasets_of(4), machine_with(4, 100000 * mib)), (Layout{4, 1}));
    const std::int64_t two =
        fullest_host(config, jobs_of(config, test::datasets_of(4), 1), 2, machine_with(4, 0)).needed;
    EXPECT_EQ(layout_in_memory(config, test::datasets_of(4), machine_with(4, two)), (Layout{2, 1}));
}

std::string refusal(const Config& config, const Machine& machine, const std::optional<Layout>& kept = {}) {
    try {
        layout_in_memory(config, test::datasets_of(1), machine, kept);
    } catch (const UsageError& error) {
        return error.what();
    }
    return "";
}

// Whole batches as long as there is room for them; else a half, a quarter, ... of their rows at a time.
TEST(LayoutInMemory, MakesMicroBatchesWhereAGpuHasNoRoomForMore) {
    Config config = config_of({4096});
    config.train.batch_size = 65536;
    const auto needed = [&](std::int64_t rows) {
        Config held = config;
        if (rows > 0) held.parallel.micro_batch = rows;
        return gpu_memory(job_of(held), held, {.on_gpus = true}).total();
    };
    const auto machine = [](std::int64_t gpu_room) {
        Machine one = machine_with(1, 100000 * mib);
        one.gpu_memory = gpu_room / 19 * 20 + 20;
        return one;
    };
    const auto rows_at = [&](std::int64_t gpu_room, const std::optional<Layout>& kept = {}) {
        return layout_in_memory(config, test::datasets_of(1), machine(gpu_room), kept).micro_batch;
    };
    EXPECT_LT(needed(1020), needed(0) / 2);
    EXPECT_EQ(rows_at(needed(0)), 0);
    EXPECT_EQ(rows_at(needed(0) - mib), 32772);  // a half, up to a multiple of 12
    EXPECT_EQ(rows_at(needed(8196) - mib), 4104);
    EXPECT_EQ(rows_at(needed(1020)), 1020);
    EXPECT_THAT(refusal(config, machine(needed(1020) - mib)),
                testing::AllOf(testing::HasSubstr("memory: a GPU with"),
                               testing::HasSubstr("train.batch_size: at most"),
                               testing::Not(testing::HasSubstr("parallel.micro_batch"))));
    // A run that is continued keeps them, where they still have room.
    EXPECT_EQ(rows_at(needed(0), Layout{.micro_batch = 16392}), 16392);
    EXPECT_EQ(rows_at(needed(8196), Layout{.micro_batch = 16392}), 8196);
    // As many as one says, whether or not there is room for more.
    config.parallel.micro_batch = 2048;
    EXPECT_EQ(rows_at(needed(0)), 2048);
    config.parallel.micro_batch = 16384;
    EXPECT_THAT(refusal(config, machine(needed(8196))), testing::HasSubstr("parallel.micro_batch: auto"));
    // Nothing is held on a GPU where there is none.
    EXPECT_EQ(layout_in_memory(config, test::datasets_of(1), machine_with(1, 100000 * mib)).micro_batch, 0);
}

TEST(LayoutInMemory, SaysWhatIsTooLargeAndWhatWouldFit) {
    const std::string wide = refusal(config_of({1 << 20}), machine_with(1, 1000 * mib));
    EXPECT_THAT(wide, testing::HasSubstr("memory: the ranks of a host of"));
    EXPECT_THAT(wide, testing::HasSubstr("weights 0.59, moments 1.00"));
    const auto at = wide.find("sae.width: at most ");
    ASSERT_NE(at, std::string::npos) << wide;
    const std::int64_t width = std::stoll(wide.substr(at + 19));
    EXPECT_EQ(refusal(config_of({width}), machine_with(1, 1000 * mib)), "");
    EXPECT_NE(refusal(config_of({width + 64}), machine_with(1, 1000 * mib)), "");

    // Widths that are cut to the same one are no reason to refuse.
    EXPECT_THAT(refusal(config_of({1 << 20, 1 << 19}), machine_with(1, 1000 * mib)),
                testing::HasSubstr("sae.width: at most "));

    Config fixed = config_of({65536, 65536, 65536});
    fixed.parallel.saes_per_job = 3;
    const std::int64_t two =
        fullest_host(fixed, jobs_of(fixed, test::datasets_of(1), 2), 1, machine_with(1, 0)).needed;
    EXPECT_THAT(refusal(fixed, machine_with(1, two)), testing::HasSubstr("parallel.saes_per_job: 2"));
    fixed.parallel.saes_per_job = {};
    EXPECT_EQ(refusal(fixed, machine_with(1, two)), "");
    // A run that is continued has its jobs already.
    EXPECT_THAT(
        refusal(fixed, machine_with(1, two), Layout{.saes_per_job = 3}),
        testing::AllOf(testing::HasSubstr("3 SAEs"), testing::Not(testing::HasSubstr("saes_per_job"))));

    Config shuffled = config_of({64});
    shuffled.data.shuffle_rows = 200000;  // 12 MiB of its rows
    const std::int64_t all = fullest_host(shuffled, {job_of(shuffled)}, 1, machine_with(1, 0)).needed;
    EXPECT_THAT(refusal(shuffled, machine_with(1, all - 4 * mib)),
                testing::HasSubstr("data.shuffle_rows: at most"));

    Config groups = config_of({65536});
    groups.parallel.groups = 1;
    groups.parallel.data = 4;
    EXPECT_THAT(refusal(groups, machine_with(4, 400 * mib)), testing::HasSubstr("the same 4 ranks on"));
}

}  // namespace
}  // namespace strata::suite
