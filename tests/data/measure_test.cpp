#include <gmock/gmock.h>

#include <cmath>

#include "comm/self.h"
#include "data/files.h"
#include "data/stream.h"
#include "data/threads.h"
#include "support/log.h"

namespace strata::data {
namespace {

using testing::HasSubstr;

InputStatistics measure_alone(const Dataset& dataset, const DataConfig& config) {
    const auto comm = make_self_communicator();
    return measure(dataset, config, *comm);
}

constexpr std::int64_t n = 5;

// Rows of norm 2 (one in four: norm 1), every `period`-th row 100 times as long; the last `spare` rows much
// longer.
Dataset dataset_with_sinks(const Folder& folder, std::int64_t rows, std::int64_t period, std::int64_t spare) {
    Writer writer(folder / "a.h5");
    const std::size_t d = writer.add({"r/0", n, Type::float16, "", "", -1});
    for (std::int64_t r = 0; r < rows + spare; ++r) {
        std::vector<float> row(n);
        row[0] = r % 4 == 0 ? 1.0F : 2.0F;
        if (r % period == 1) row[0] = 200;
        if (r >= rows) row[0] = 3000;
        writer.append(d, row);
    }
    writer.finish();
    return find_datasets({folder / "a.h5"}, {"r/0"})[0];
}

DataConfig config_of(const std::string& scale, std::int64_t eval_rows) {
    DataConfig config;
    config.scale = scale;
    config.eval_rows = eval_rows;
    config.lanes = 8;
    return config;
}

TEST(Measure, OutliersAndHeldOutRowsDoNotCount) {
    const Folder folder;
    const Dataset dataset = dataset_with_sinks(folder, 4000, 100, 500);
    const InputStatistics all = measure_alone(dataset, config_of("mean_square", 500));
    EXPECT_EQ(all.sampled_rows, 4000);
    EXPECT_EQ(all.median_norm, 2);
    EXPECT_EQ(all.norm_limit, 20);
    // 40 of 4000 rows are over the limit, all of them with norm 2 otherwise.
    const double expected = (1000 * 1.0 + 2960 * 4.0) / 3960;
    EXPECT_DOUBLE_EQ(all.mean_square, expected);
    EXPECT_DOUBLE_EQ(all.scale, 1 / std::sqrt(expected));
    EXPECT_DOUBLE_EQ(all.mean[0], (1000 * 1.0 + 2960 * 2.0) / 3960);
    EXPECT_EQ(all.mean[1], 0);
    EXPECT_DOUBLE_EQ(measure_alone(dataset, config_of("sqrt_dim", 500)).scale, std::sqrt(5 / expected));
    EXPECT_EQ(measure_alone(dataset, config_of("none", 500)).scale, 1);
    EXPECT_EQ(measure_alone(dataset, config_of("0.125", 500)).scale, 0.125);
    DataConfig keep = config_of("none", 500);
    keep.max_norm_ratio = 0;
    EXPECT_GT(measure_alone(dataset, keep).mean_square, 300);
}

TEST(Measure, TheSameBitsAtAnyNumberOfRanks) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float32, 0, 90000, n);
    write_numbered(folder / "b.h5", "r/0", Type::float16, 90000, 7777, n);
    const Dataset dataset = find_datasets({folder / "*.h5"}, {"r/0"})[0];
    const DataConfig config = config_of("mean_square", 100);
    const InputStatistics one = measure_alone(dataset, config);
    EXPECT_EQ(one.sampled_rows, 65536);
    EXPECT_GT(one.mean_square, 0);
    for (const int ranks : {2, 3, 5}) {
        std::vector<InputStatistics> results(static_cast<std::size_t>(ranks));
        on_threads(ranks, [&](Communicator& comm) {
            results[static_cast<std::size_t>(comm.rank())] = measure(dataset, config, comm);
        });
        for (const InputStatistics& result : results) {
            EXPECT_EQ(result.median_norm, one.median_norm);
            EXPECT_EQ(result.mean_square, one.mean_square);
            EXPECT_EQ(result.scale, one.scale);
            EXPECT_EQ(result.mean, one.mean);
        }
    }
}

TEST(Measure, TargetsOfTheSameRows) {
    const Folder folder;
    const auto far = [](std::int64_t row, std::vector<float>& x, std::vector<float>& target) {
        if (row % 100 == 1) x[0] = target[0] = 3000;  // over the limit, and so left out of both
        if (row % 100 == 2) target[1] = 3000;         // only x decides
    };
    write_paired(folder / "a.h5", "r/0", Type::float16, "t/0", Type::float32, 0, 3000, n, far);
    write_paired(folder / "b.h5", "r/0", Type::float32, "t/0", Type::float16, 3000, 777, n, far);
    const Dataset dataset = find_datasets({folder / "*.h5"}, {"r/0"}, "t/0")[0];
    Dataset alone = dataset;
    alone.target = nullptr;
    const DataConfig config = config_of("mean_square", 77);
    const InputStatistics one = measure_alone(dataset, config), without = measure_alone(alone, config);
    EXPECT_EQ(one.mean, without.mean);
    EXPECT_EQ(one.scale, without.scale);
    EXPECT_TRUE(without.target_mean.empty());
    std::vector<double> expected(n);
    double rows = 0;
    for (std::int64_t r = 0; r < 3700; ++r) {
        if (r % 100 == 1) continue;
        auto row = numbered_row(target_numbers + r, n);
        if (r % 100 == 2) row[1] = 3000;
        for (std::size_t c = 0; c < n; ++c) expected[c] += row[c];
        ++rows;
    }
    ASSERT_EQ(one.target_mean.size(), n);
    for (std::size_t c = 0; c < n; ++c) EXPECT_DOUBLE_EQ(one.target_mean[c], expected[c] / rows);
    for (const int ranks : {2, 3}) {
        std::vector<InputStatistics> results(static_cast<std::size_t>(ranks));
        on_threads(ranks, [&](Communicator& comm) {
            results[static_cast<std::size_t>(comm.rank())] = measure(dataset, config, comm);
        });
        for (const InputStatistics& result : results) EXPECT_EQ(result.target_mean, one.target_mean);
    }

    write_paired(folder / "nan.h5", "s/0", Type::float16, "u/0", Type::float32, 0, 500, n,
                 [](std::int64_t row, std::vector<float>&, std::vector<float>& target) {
                     if (row == 17) target[2] = std::nanf("");
                 });
    const Dataset nan = find_datasets({folder / "nan.h5"}, {"s/0"}, "u/0")[0];
    EXPECT_THAT(thrown<RunError>([&] { measure_alone(nan, config_of("none", 10)); }),
                HasSubstr("nan.h5: u/0: row 17: element 2 is nan"));
}

// As of a dataset that never had them; a target's mean without the rows whose target is corrupt.
TEST(Measure, CorruptRowsThatAreLeftOutDoNotCount) {
    const Folder folder;
    const test::Logged logged;
    const auto nan_x = [](std::int64_t r) { return r % 10 == 3; };
    const auto nan_target = [](std::int64_t r) { return r % 20 == 3 || r % 70 == 5; };
    write_paired(folder / "a.h5", "r/0", Type::float16, "t/0", Type::float32, 0, 3000, n,
                 [&](std::int64_t row, std::vector<float>& x, std::vector<float>& target) {
                     if (nan_x(row)) x[4] = std::nanf("");
                     if (nan_target(row)) target[2] = std::nanf("");
                 });
    damage_chunk(folder / "a.h5", "r/0", 2);
    const auto corrupt = [&](std::int64_t r) { return nan_x(r) || (r >= 512 && r < 768); };
    std::vector<double> target_mean(n);
    double targets = 0;
    {
        Writer writer(folder / "b.h5");
        const std::size_t d = writer.add({"r/0", n, Type::float16, "", "", -1});
        for (std::int64_t r = 0; r < 3000; ++r) {
            if (corrupt(r)) continue;
            writer.append(d, numbered_row(r, n));
            if (nan_target(r)) continue;
            ++targets;
            const auto target = numbered_row(target_numbers + r, n);
            for (std::size_t c = 0; c < n; ++c) target_mean[c] += static_cast<double>(target[c]);
        }
        writer.finish();
    }
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"r/0"}, "t/*", true)[0];
    const DataConfig config = config_of("mean_square", 0);
    const InputStatistics one = measure_alone(dataset, config);
    const InputStatistics expected = measure_alone(find_datasets({folder / "b.h5"}, {"r/0"})[0], config);
    EXPECT_EQ(one.sampled_rows, expected.sampled_rows);
    EXPECT_EQ(one.median_norm, expected.median_norm);
    EXPECT_EQ(one.norm_limit, expected.norm_limit);
    EXPECT_DOUBLE_EQ(one.mean_square, expected.mean_square);
    for (std::size_t c = 0; c < n; ++c) {
        EXPECT_DOUBLE_EQ(one.mean[c], expected.mean[c]);
        EXPECT_DOUBLE_EQ(one.target_mean[c], target_mean[c] / targets);
    }
    for (const int ranks : {2, 3}) {
        Shared shared(ranks);
        std::vector<std::jthread> threads;
        for (int r = 0; r < ranks; ++r)
            threads.emplace_back([&, r] {
                ThreadCommunicator comm(shared, r, ranks);
                const InputStatistics result = measure(dataset, config, comm);
                EXPECT_EQ(result.mean, one.mean);
                EXPECT_EQ(result.scale, one.scale);
                EXPECT_EQ(result.median_norm, one.median_norm);
                EXPECT_EQ(result.target_mean, one.target_mean);
            });
    }
}

TEST(Measure, WhatCannotBeScaledIsAnError) {
    const Folder folder;
    write_plain(folder / "zero.h5", "r/0", H5T_IEEE_F32LE, {100, 4}, 0);
    const Dataset zero = find_datasets({folder / "zero.h5"}, {"r/0"})[0];
    EXPECT_THAT(thrown<RunError>([&] { measure_alone(zero, config_of("mean_square", 10)); }),
                HasSubstr("r/0: all 90 sampled rows are zero, so no scale can be measured"));
    EXPECT_EQ(measure_alone(zero, config_of("none", 10)).scale, 1);
    EXPECT_THAT(thrown<UsageError>([&] { measure_alone(zero, config_of("twice", 10)); }),
                HasSubstr("data.scale: `twice` is not one of"));
    EXPECT_THAT(thrown<UsageError>([&] { measure_alone(zero, config_of("none", 100)); }),
                HasSubstr("data.eval_rows keeps back 100"));
    write_plain(folder / "nan.h5", "r/0", H5T_IEEE_F32LE, {100, 4}, std::nan(""));
    const Dataset nan = find_datasets({folder / "nan.h5"}, {"r/0"})[0];
    EXPECT_THAT(thrown<RunError>([&] { measure_alone(nan, config_of("none", 10)); }),
                HasSubstr("nan.h5: r/0: row 0: element 0 is nan"));
    write_plain(folder / "one.h5", "r/0", H5T_IEEE_F32LE, {100, 4});
    DataConfig strict = config_of("none", 10);
    strict.max_norm_ratio = 0.5;
    EXPECT_THAT(
        thrown<UsageError>([&] { measure_alone(find_datasets({folder / "one.h5"}, {"r/0"})[0], strict); }),
        HasSubstr("data.max_norm_ratio: 0.5 leaves none of the 90 sampled rows"));
}

}  // namespace
}  // namespace strata::data
