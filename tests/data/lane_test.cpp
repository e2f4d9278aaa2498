#include "data/lane.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <random>

#include "data/convert.h"
#include "data/files.h"

namespace strata::data {
namespace {

using testing::HasSubstr;

constexpr std::int64_t n = 5;
constexpr std::int64_t lanes = 8;

DataConfig config_of(std::int64_t block_rows) {
    DataConfig config;
    config.lanes = lanes;
    config.shuffle_rows = 2 * lanes * block_rows;
    config.eval_rows = 0;
    return config;
}

InputStatistics statistics_of(double norm_limit) {
    InputStatistics statistics;
    statistics.norm_limit = norm_limit;
    return statistics;
}

// A lane with its own slots, whose rows are told by their numbers.
struct TestLane {
    LaneSource source;
    std::vector<std::byte> slots, target_slots;
    Lane lane;

    TestLane(const Dataset& dataset, std::int64_t block_rows, double norm_limit = 0,
             const LaneCursor& cursor = {})
        : source(dataset, config_of(block_rows), statistics_of(norm_limit), 7),
          slots(static_cast<std::size_t>(source.block_rows) * source.x.row_bytes()),
          target_slots(
              source.target ? static_cast<std::size_t>(source.block_rows) * source.target->row_bytes() : 0),
          lane(source, 3, cursor, {slots, target_slots}) {}

    std::vector<std::int64_t> serve(std::int64_t rows) {
        BatchRoom room(nullptr, rows, n, source.x.type,
                       source.target ? std::optional(source.target->type) : std::nullopt, 1);
        lane.serve(room, 0, rows);
        room.send(rows);
        const std::span<const float> x = room.batch(0, 0).x, target = room.batch(0, 0).target;
        std::vector<std::int64_t> numbers;
        for (std::size_t at = 0; at < x.size(); at += n) {
            numbers.push_back(number_of(&x[at]));
            if (source.target) {
                EXPECT_EQ(number_of(&target[at]), target_numbers + numbers.back());
            }
        }
        return numbers;
    }

    int read_ahead(int most) {
        int runs = 0;
        while (runs < most && lane.read_ahead()) ++runs;
        return runs;
    }
};

// 512 rows: lanes of 64 and runs of 8.
Dataset small_dataset(const Folder& folder) {
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 512, n);
    return find_datasets({folder / "a.h5"}, {"r/0"})[0];
}

TEST(Lane, ReadsAheadAsRowsMakeRoom) {
    const Folder folder;
    TestLane lane(small_dataset(folder), 32);
    EXPECT_EQ(lane.read_ahead(9), 0);  // the first block is read when it is needed
    lane.serve(7);
    EXPECT_EQ(lane.read_ahead(9), 0);
    lane.serve(1);
    EXPECT_EQ(lane.read_ahead(9), 1);
    lane.serve(7);
    EXPECT_EQ(lane.read_ahead(9), 0);
    lane.serve(14);
    EXPECT_EQ(lane.read_ahead(9), 2);
    lane.serve(3);
    EXPECT_EQ(lane.read_ahead(9), 1);
    EXPECT_EQ(lane.read_ahead(9), 0);  // all of the second block is there
    lane.serve(33);                    // to the first row of the next pass
    EXPECT_EQ(lane.lane.cursor().pass, 1);
    EXPECT_EQ(lane.read_ahead(9), 0);  // 31 slots are still to be served
}

// With targets beside them or without.
class Lanes : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Target, Lanes, testing::Bool());

TEST_P(Lanes, ServeTheSameRowsWhateverWasReadAhead) {
    const Folder folder;
    write_paired(folder / "a.h5", "r/0", Type::float16, "t/0", Type::bfloat16, 0, 701, n);
    write_paired(folder / "b.h5", "r/0", Type::bfloat16, "t/0", Type::bfloat16, 701, 13, n);
    write_paired(folder / "c.h5", "r/0", Type::float32, "t/0", Type::bfloat16, 714, 583, n);
    const Dataset dataset = find_datasets({folder / "*.h5"}, {"r/0"}, GetParam() ? "t/*" : "")[0];
    std::mt19937 random(1);
    for (const std::int64_t block_rows : {1, 2, 19, 20, 50, 150, 1000})
        for (const double norm_limit : {0.0, 40.0}) {
            TestLane never(dataset, block_rows, norm_limit), always(dataset, block_rows, norm_limit),
                sometimes(dataset, block_rows, norm_limit);
            LaneCursor before;
            for (int i = 0; i < 60; ++i) {
                const auto rows = static_cast<std::int64_t>(random() % 40);
                const auto expected = never.serve(rows);
                ASSERT_EQ(always.serve(rows), expected);
                ASSERT_EQ(sometimes.serve(rows), expected);
                TestLane resumed(dataset, block_rows, norm_limit, before);
                ASSERT_EQ(resumed.serve(rows), expected);
                before = never.lane.cursor();
                for (const TestLane* lane : {&always, &sometimes, &resumed}) {
                    ASSERT_EQ(lane->lane.cursor().pass, before.pass);
                    ASSERT_EQ(lane->lane.cursor().block, before.block);
                    ASSERT_EQ(lane->lane.cursor().offset, before.offset);
                    ASSERT_EQ(lane->lane.cursor().skipped, before.skipped);
                }
                always.read_ahead(1000);
                sometimes.read_ahead(static_cast<int>(random() % 3));
            }
        }
}

TEST(Lane, WhatCannotBeReadAheadFailsWithItsBlock) {
    const Folder folder;
    TestLane good(small_dataset(folder), 32);
    good.serve(32);
    const std::int64_t victim = good.serve(20).back();  // a row of the second block
    Writer writer(folder / "b.h5");
    const std::size_t d = writer.add({"r/0", n, Type::float16, "", "", -1});
    for (std::int64_t r = 0; r < 512; ++r) {
        auto row = numbered_row(r, n);
        if (r == victim) row[4] = std::numeric_limits<float>::quiet_NaN();
        writer.append(d, row);
    }
    writer.finish();
    const Dataset dataset = find_datasets({folder / "b.h5"}, {"r/0"})[0];
    for (const int ahead : {0, 1000}) {
        TestLane lane(dataset, 32);
        for (int i = 0; i < 32; ++i) {
            lane.serve(1);
            lane.read_ahead(ahead);
        }
        for (int i = 0; i < 3; ++i) {
            EXPECT_THAT(thrown<RunError>([&] { lane.serve(1); }),
                        HasSubstr(fmt::format("b.h5: r/0: row {}: element 4 is nan", victim)));
            EXPECT_EQ(lane.read_ahead(1), 0);
        }
    }
}

// As held-out batches are read: the files' type where all have one, float32 where they differ.
TEST(HeldRows, OfARunThatGoesOverSeveralFiles) {
    for (const Type last : {Type::float16, Type::float32}) {
        const Folder folder;
        write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 11, n);
        write_numbered(folder / "b.h5", "r/0", Type::float16, 11, 3, n);
        write_numbered(folder / "c.h5", "r/0", last, 14, 9, n);
        HeldRows rows(find_datasets({folder / "*.h5"}, {"r/0"})[0], 23);
        EXPECT_EQ(rows.type, last);
        for (const data::Run run : {data::Run{0, 23}, data::Run{9, 7}, data::Run{12, 2}, data::Run{13, 4}}) {
            const std::span<const std::byte> read = rows.read(run);
            std::vector<float> row(n);
            for (std::int64_t r = 0; r < run.rows; ++r) {
                to_float(rows.type, rows.row(read, r), row);
                EXPECT_EQ(row, numbered_row(run.first + r, n)) << run.first << " + " << r;
            }
        }
    }
}

}  // namespace
}  // namespace strata::data
