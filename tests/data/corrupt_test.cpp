// Corrupt rows that are left out: which, how they are counted and told, and that it changes nothing else.

#include "data/corrupt.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "comm/self.h"
#include "data/files.h"
#include "data/stream.h"
#include "support/log.h"

namespace strata::data {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr std::int64_t n = 9;
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

struct Rows {
    std::int64_t first, last;
    bool hold(std::int64_t row) const { return row >= first && row < last; }
};

// Chunks of 256 rows in a.h5 and c.h5, the second of each damaged in x and in the target.
constexpr Rows unreadable = {256, 512}, unreadable_target = {714 + 256, 714 + 512};
bool not_finite(std::int64_t row) {
    return row == 3 || row == 4 || row == 705;
}
bool target_not_finite(std::int64_t row) {
    return row == 4 || row == 1000 || row == 1290;  // 1000: in a chunk that cannot be read
}
bool is_corrupt(std::int64_t row) {
    return unreadable.hold(row) || unreadable_target.hold(row) || not_finite(row) || target_not_finite(row);
}

Dataset corrupt_dataset(const Folder& folder, bool skip_corrupt = true) {
    const auto change = [](std::int64_t row, std::vector<float>& x, std::vector<float>& y) {
        if (not_finite(row)) x[4] = nan;
        if (target_not_finite(row)) y[2] = -std::numeric_limits<float>::infinity();
    };
    write_paired(folder / "a.h5", "r/0", Type::float16, "t/0", Type::float32, 0, 701, n, change);
    write_paired(folder / "b.h5", "r/0", Type::bfloat16, "t/0", Type::bfloat16, 701, 13, n, change);
    write_paired(folder / "c.h5", "r/0", Type::float32, "t/0", Type::float16, 714, 583, n, change);
    damage_chunk(folder / "a.h5", "r/0", 1);
    damage_chunk(folder / "c.h5", "t/0", 1);
    return find_datasets({folder / "*.h5"}, {"r/0"}, "t/*", skip_corrupt)[0];
}

// The same, but for corrupt rows, which are whole and very long.
Dataset outlying_dataset(const Folder& folder) {
    const auto change = [](std::int64_t row, std::vector<float>& x, std::vector<float>&) {
        if (is_corrupt(row)) x[n - 1] = 20000;
    };
    write_paired(folder / "a.h5", "r/0", Type::float16, "t/0", Type::float32, 0, 701, n, change);
    write_paired(folder / "b.h5", "r/0", Type::bfloat16, "t/0", Type::bfloat16, 701, 13, n, change);
    write_paired(folder / "c.h5", "r/0", Type::float32, "t/0", Type::float16, 714, 583, n, change);
    return find_datasets({folder / "*.h5"}, {"r/0"}, "t/*")[0];
}

TEST(Corrupt, TheRowsOfAChunkThatCannotBeReadAreNaNHoweverTheyAreRead) {
    const Folder folder;
    const test::Logged logged;
    const Dataset dataset = corrupt_dataset(folder);
    for (const std::int64_t step : {1, 7, 256, 300, 701}) {
        Reader reader(dataset);
        for (std::int64_t row = 0; row < 701; row += step) {
            const std::int64_t rows = std::min(step, 701 - row);
            std::vector<float> values(static_cast<std::size_t>(rows * n));
            reader.read(row, values);
            for (std::int64_t r = 0; r < rows; ++r)
                for (std::int64_t c = 0; c < n; ++c) {
                    const float value = values[static_cast<std::size_t>(r * n + c)];
                    if (unreadable.hold(row + r) || (not_finite(row + r) && c == 4))
                        ASSERT_TRUE(std::isnan(value)) << row + r;
                    else
                        ASSERT_EQ(value, numbered_row(row + r, n)[static_cast<std::size_t>(c)]) << row + r;
                }
        }
    }
}

TEST(Corrupt, OneWarningForAChunk) {
    const Folder folder;
    const test::Logged logged;
    const Dataset dataset = corrupt_dataset(folder);
    const DataConfig config = config_of(1, 300, 0);
    Stream stream(dataset, config, {}, 50, 7, 0, 1);
    for (int step = 0; step < 60; ++step) stream.next();  // more than a pass
    const auto of = [&](const std::string& start, const std::string& end) {
        return AllOf(StartsWith("warning: " + (folder / start).string() +
                                ": corrupt rows are left out (data.skip_corrupt): "),
                     HasSubstr(end));
    };
    std::vector<std::string> lines = logged.lines();
    EXPECT_THAT(lines,
                testing::UnorderedElementsAre(
                    of("a.h5: r/0: rows 0 to 255", "element 4 is nan"),
                    of("a.h5: r/0: rows 256 to 511", "they cannot be read: the data do not match their"),
                    of("a.h5: t/0: rows 0 to 255", "row 4: element 2 is -inf"),
                    of("b.h5: r/0: rows 0 to 12", "row 4: element 4 is nan"),
                    of("c.h5: t/0: rows 256 to 511", "they cannot be read: the data do not match their"),
                    of("c.h5: t/0: rows 512 to 582", "row 576: element 2 is -inf")));
}

std::vector<LaneCursor> begin_of(const DataConfig& config) {
    return std::vector<LaneCursor>(static_cast<std::size_t>(config.lanes));
}

// Rows of global batches and the cursors after them, from the cursors given.
std::vector<std::int64_t> serve(const Dataset& dataset, const DataConfig& config, double norm_limit,
                                int ranks, int steps, std::vector<LaneCursor>& cursors) {
    InputStatistics statistics;
    statistics.norm_limit = norm_limit;
    std::vector<std::unique_ptr<Stream>> streams;
    for (int r = 0; r < ranks; ++r)
        streams.push_back(std::make_unique<Stream>(dataset, config, statistics, 44, 7, r, ranks, cursors));
    std::vector<std::int64_t> numbers;
    for (int s = 0; s < steps; ++s)
        for (const auto& stream : streams) {
            const Batch batch = stream->next();
            for (std::size_t at = 0; at < batch.x.size(); at += n) {
                numbers.push_back(number_of(&batch.x[at]));
                EXPECT_EQ(number_of(&batch.target[at]), target_numbers + numbers.back());
            }
        }
    cursors = begin_of(config);
    for (const auto& stream : streams) {
        const auto mine = stream->cursors();
        for (std::size_t l = 0; l < cursors.size(); ++l)
            if (mine[l].pass + mine[l].block + mine[l].offset > 0) cursors[l] = mine[l];
    }
    return numbers;
}

TEST(Corrupt, RowsAreServedAsIfThoseLeftOutWereOutliers) {
    const Folder folder, reference_folder;
    const test::Logged logged;
    const Dataset dataset = corrupt_dataset(folder), reference = outlying_dataset(reference_folder);
    constexpr int steps = 70;
    for (const std::int64_t shuffle_rows : {1, 250, 1000}) {
        const DataConfig config = config_of(6, shuffle_rows, 30);
        std::vector<LaneCursor> expected_cursors = begin_of(config);
        const auto expected = serve(reference, config, 1000, 1, steps, expected_cursors);
        for (int stop = 0; stop < steps; stop += 3) {
            std::vector<LaneCursor> cursors = begin_of(config);
            auto numbers = serve(dataset, config, 1000, 1 + stop % 5, stop, cursors);
            for (const std::int64_t number :
                 serve(dataset, config, 1000, 1 + stop % 4, steps - stop, cursors))
                numbers.push_back(number);
            ASSERT_EQ(numbers, expected) << stop;
            for (std::size_t l = 0; l < cursors.size(); ++l) {
                ASSERT_EQ(cursors[l].pass, expected_cursors[l].pass);
                ASSERT_EQ(cursors[l].block, expected_cursors[l].block);
                ASSERT_EQ(cursors[l].offset, expected_cursors[l].offset);
                ASSERT_EQ(cursors[l].skipped, 0);
                ASSERT_EQ(cursors[l].corrupt, expected_cursors[l].skipped);
                EXPECT_GT(cursors[l].corrupt, 0);
            }
        }
    }
}

TEST(Corrupt, CountsThoseOverTheLimitApart) {
    const Folder folder;
    const test::Logged logged;
    write_paired(folder / "a.h5", "r/0", Type::float32, "t/0", Type::float32, 0, 100, n,
                 [](std::int64_t row, std::vector<float>& x, std::vector<float>& y) {
                     if (row % 10 == 1) x[5] = 1e6F;
                     if (row % 20 == 1) y[5] = nan;  // corrupt, though over the limit, too
                     if (row % 50 == 2) x[5] = nan;
                 });
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"r/0"}, "t/*", true)[0];
    InputStatistics statistics;
    statistics.norm_limit = 1000;
    Stream stream(dataset, config_of(1, 200, 0), statistics, 8, 7, 0, 1);
    stream.next();
    const LeftOut counts = left_out(stream, *make_self_communicator());
    EXPECT_EQ(counts.skipped, 5);
    EXPECT_EQ(counts.corrupt, 7);
}

// 700 rows by way of an HDF5 virtual dataset, whose parts have no chunks of their own to fail together.
TEST(Corrupt, RowsWithoutChunksAreLeftOutOneByOne) {
    const Folder folder;
    write_numbered(folder / "source.h5", "r/0", Type::float16, 0, 700, n);
    damage_chunk(folder / "source.h5", "r/0", 1);
    {
        const hsize_t shape[2] = {700, n};
        const hid_t file = H5Fcreate((folder / "map.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
        const hid_t space = H5Screate_simple(2, shape, nullptr), made = H5Pcreate(H5P_DATASET_CREATE);
        H5Pset_virtual(made, space, (folder / "source.h5").c_str(), "r/0", space);
        const hid_t source = H5Fopen((folder / "source.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
        const hid_t rows = H5Dopen2(source, "r/0", H5P_DEFAULT), type = H5Dget_type(rows);
        H5Dclose(H5Dcreate2(file, "v", type, space, H5P_DEFAULT, made, H5P_DEFAULT));
        H5Tclose(type);
        H5Dclose(rows);
        H5Fclose(source);
        H5Pclose(made);
        H5Sclose(space);
        H5Fclose(file);
    }
    const test::Logged logged;
    const Dataset dataset = find_datasets({folder / "map.h5"}, {"v"}, "", true)[0];
    ASSERT_EQ(dataset.parts[0].chunk_rows, 0);
    Reader reader(dataset);
    std::vector<float> values(400 * n);
    reader.read(200, values);
    for (std::int64_t r = 200; r < 600; ++r) {
        const float* const row = &values[static_cast<std::size_t>((r - 200) * n)];
        if (r >= 256 && r < 512)
            ASSERT_TRUE(std::isnan(row[0]) && std::isnan(row[n - 1])) << r;
        else
            ASSERT_EQ(number_of(row), r);
    }
    EXPECT_THAT(logged.lines(), ElementsAre(HasSubstr("map.h5: v: rows 256 to 511: corrupt rows are left out "
                                                      "(data.skip_corrupt): row 256 cannot be read: ")));
}

TEST(Corrupt, WhereNothingIsLeftTheRunEnds) {
    const Folder folder;
    write_plain(folder / "a.h5", "r/0", H5T_IEEE_F32LE, {5000, 4}, nan);
    const test::Logged logged;
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"r/0"}, "", true)[0];
    const DataConfig config = config_of(2, 100, 0);
    for (int i = 0; i < 2; ++i) {
        Stream stream(dataset, config, {}, 8, 7, 0, 1);
        EXPECT_THAT(thrown<RunError>([&] { stream.next(); }),
                    HasSubstr("r/0: of 4100 rows of lane 0 one after another 4100 are corrupt and the others "
                              "over the norm limit; `strata data check` tells what is wrong"));
    }
    EXPECT_THAT(thrown<RunError>([&] { measure(dataset, config, *make_self_communicator()); }),
                HasSubstr("r/0: all 5000 sampled rows are corrupt; `strata data check` tells"));
    EXPECT_EQ(logged.lines().size(), 20);  // one for 256 rows
}

TEST(Corrupt, AreErrorsUnlessLeftOut) {
    const Folder folder;
    const test::Logged logged;
    const Dataset dataset = corrupt_dataset(folder, false);
    const DataConfig config = config_of(1, 3000, 0);
    Stream stream(dataset, config, {}, 8, 7, 0, 1);
    EXPECT_THAT(thrown<RunError>([&] { stream.next(); }),
                HasSubstr("; data.skip_corrupt leaves out what cannot be used"));
    EXPECT_THAT(logged.lines(), IsEmpty());
}

}  // namespace
}  // namespace strata::data
