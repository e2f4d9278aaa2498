#include "data/stream.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "base/random.h"
#include "data/files.h"

namespace strata::data {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr std::int64_t n = 9;

// Several files of different sizes and types, rows numbered on; nothing divides anything.
Dataset numbered_dataset(const Folder& folder) {
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 701, n);
    write_numbered(folder / "b.h5", "r/0", Type::bfloat16, 701, 13, n);
    write_numbered(folder / "c.h5", "r/0", Type::float32, 714, 583, n);
    return find_datasets({folder / "*.h5"}, {"r/0"})[0];
}

// Expects the targets to belong to the rows.
std::vector<std::int64_t> numbers_of(const Batch& batch, double scale = 1) {
    std::vector<std::int64_t> numbers;
    for (std::int64_t r = 0; r < batch.rows; ++r)
        numbers.push_back(number_of(&batch.x[static_cast<std::size_t>(r * n)], static_cast<float>(scale)));
    EXPECT_TRUE(batch.target.empty() || batch.target.size() == batch.x.size());
    for (std::size_t r = 0; r < batch.target.size() / n; ++r)
        EXPECT_EQ(number_of(&batch.target[r * n], static_cast<float>(scale)), target_numbers + numbers[r]);
    return numbers;
}

// The global batches of `steps` steps at a number of ranks, from cursors, which are left where the last step
// ended.
std::vector<std::vector<std::int64_t>> global_batches(const Dataset& dataset, const DataConfig& config,
                                                      int ranks, int steps, std::int64_t batch,
                                                      std::vector<LaneCursor>& cursors,
                                                      const InputStatistics& statistics = {}) {
    std::vector<std::unique_ptr<Stream>> streams;
    for (int r = 0; r < ranks; ++r)
        streams.push_back(std::make_unique<Stream>(dataset, config, statistics, batch, 7, r, ranks, cursors));
    std::vector<std::vector<std::int64_t>> result;
    for (int s = 0; s < steps; ++s) {
        std::vector<std::int64_t> all;
        for (int r = 0; r < ranks; ++r) {
            const Batch mine = streams[static_cast<std::size_t>(r)]->next();
            EXPECT_EQ(mine.first, static_cast<std::int64_t>(all.size()));
            EXPECT_EQ(mine.rows, local_rows(batch, config.lanes, r, ranks));
            EXPECT_EQ(mine.target.size(), dataset.target ? mine.x.size() : 0);
            for (const std::int64_t number : numbers_of(mine, statistics.scale)) all.push_back(number);
        }
        EXPECT_EQ(static_cast<std::int64_t>(all.size()), batch);
        result.push_back(std::move(all));
    }
    cursors.assign(static_cast<std::size_t>(config.lanes), {});
    for (const auto& stream : streams) {
        const auto mine = stream->cursors();
        for (std::size_t l = 0; l < cursors.size(); ++l) {
            cursors[l].pass += mine[l].pass;
            cursors[l].block += mine[l].block;
            cursors[l].offset += mine[l].offset;
            cursors[l].skipped += mine[l].skipped;
        }
    }
    return result;
}

bool same(const std::vector<LaneCursor>& a, const std::vector<LaneCursor>& b) {
    return std::ranges::equal(a, b, [](const LaneCursor& x, const LaneCursor& y) {
        return x.pass == y.pass && x.block == y.block && x.offset == y.offset && x.skipped == y.skipped;
    });
}

TEST(Stream, TheSameGlobalBatchesAtAnyNumberOfRanks) {
    const Folder folder;
    const Dataset dataset = numbered_dataset(folder);
    for (const std::int64_t batch : {64, 50, 7}) {
        const DataConfig config = config_of(8, 300, 97);
        std::vector<LaneCursor> expected_cursors;
        const auto expected = global_batches(dataset, config, 1, 60, batch, expected_cursors);
        for (const int ranks : {2, 3, 4, 5, 8, 11}) {
            std::vector<LaneCursor> cursors;
            EXPECT_EQ(global_batches(dataset, config, ranks, 60, batch, cursors), expected) << ranks;
            EXPECT_TRUE(same(cursors, expected_cursors)) << ranks;
        }
    }
}

// The rows that one lane serves in one pass, in order, as docs/data.md has it: every step on whole lists of
// row numbers.
std::vector<std::int64_t> lane_pass(const Dataset& dataset, const DataConfig& config, double norm_limit,
                                    std::uint64_t seed, std::int64_t lane, std::uint64_t pass) {
    const std::int64_t rows = dataset.rows - config.eval_rows;
    const std::int64_t run_rows = std::clamp<std::int64_t>(rows / (8 * config.lanes), 1, 256);
    std::vector<std::vector<std::int64_t>> runs;
    for (const FilePart& part : dataset.parts)
        for (std::int64_t r = 0; r < part.rows && part.first + r < rows; ++r) {
            if (r % run_rows == 0) runs.emplace_back();
            runs.back().push_back(part.first + r);
        }
    shuffle(std::span(runs), Random(seed, Purpose::chunk_order, pass));
    std::vector<std::int64_t> order;
    for (const auto& run : runs) order.insert(order.end(), run.begin(), run.end());

    const std::int64_t begin = lane * rows / config.lanes, end = (lane + 1) * rows / config.lanes;
    const std::int64_t block_rows = std::clamp<std::int64_t>(config.shuffle_rows / (2 * config.lanes), 1,
                                                             (rows + config.lanes - 1) / config.lanes);
    std::vector<std::int64_t> served;
    for (std::int64_t block = 0; begin + block * block_rows < end; ++block) {
        std::vector<std::int64_t> kept;
        for (std::int64_t i = begin + block * block_rows; i < std::min(begin + (block + 1) * block_rows, end);
             ++i) {
            double squared = 0;
            for (const float v : numbered_row(order[static_cast<std::size_t>(i)], n))
                squared += static_cast<double>(v) * v;
            if (norm_limit == 0 || std::sqrt(squared) <= norm_limit)
                kept.push_back(order[static_cast<std::size_t>(i)]);
        }
        shuffle(std::span(kept), Random(seed, Purpose::row_order,
                                        (pass << 48) ^ (static_cast<std::uint64_t>(lane) << 32) ^
                                            static_cast<std::uint64_t>(block)));
        served.insert(served.end(), kept.begin(), kept.end());
    }
    return served;
}

TEST(Stream, TheOrderOfRowsIsTheDocumentedOne) {
    const Folder folder;
    const Dataset dataset = numbered_dataset(folder);
    constexpr int steps = 60;
    for (const std::int64_t shuffle_rows : {1, 30, 77, 300, 1000, 100000})
        for (const std::int64_t lanes : {1, 3, 8})
            for (const double norm_limit : {0.0, 40.0})
                for (const std::int64_t batch : {8, 50, 171}) {
                    const DataConfig config = config_of(lanes, shuffle_rows, 97);
                    std::vector<std::vector<std::int64_t>> expected(steps);
                    for (std::int64_t lane = 0; lane < lanes; ++lane) {
                        const std::int64_t rows = (lane + 1) * batch / lanes - lane * batch / lanes;
                        std::vector<std::int64_t> served;
                        for (std::uint64_t pass = 0; std::ssize(served) < steps * rows; ++pass)
                            for (const std::int64_t row :
                                 lane_pass(dataset, config, norm_limit, 7, lane, pass))
                                served.push_back(row);
                        for (int s = 0; s < steps; ++s)
                            expected[static_cast<std::size_t>(s)].insert(
                                expected[static_cast<std::size_t>(s)].end(), served.begin() + s * rows,
                                served.begin() + (s + 1) * rows);
                    }
                    InputStatistics statistics;
                    statistics.norm_limit = norm_limit;
                    std::vector<LaneCursor> cursors;
                    ASSERT_EQ(global_batches(dataset, config, 1, steps, batch, cursors, statistics), expected)
                        << shuffle_rows << ' ' << lanes << ' ' << norm_limit << ' ' << batch;
                }
}

TEST(Stream, EveryRowOncePerPassInAnOrderOfItsOwn) {
    const Folder folder;
    const Dataset dataset = numbered_dataset(folder);
    const DataConfig config = config_of(5, 140, 97);  // 1200 rows, 240 to a lane
    std::vector<LaneCursor> cursors;
    const auto batches = global_batches(dataset, config, 2, 3 * 240, 5, cursors);
    std::vector<std::vector<std::int64_t>> passes(3);
    for (std::size_t s = 0; s < batches.size(); ++s)
        for (const std::int64_t number : batches[s]) passes[s / 240].push_back(number);
    for (const auto& pass : passes) {
        const std::set<std::int64_t> distinct(pass.begin(), pass.end());
        EXPECT_EQ(distinct.size(), 1200);
        EXPECT_EQ(*distinct.begin(), 0);
        EXPECT_EQ(*distinct.rbegin(), 1199);
    }
    EXPECT_NE(passes[0], passes[1]);
    EXPECT_NE(passes[1], passes[2]);
    // Neighbours in the file are not neighbours in the stream.
    std::int64_t successors = 0;
    for (std::size_t i = 5; i < passes[0].size(); ++i)
        successors += passes[0][i] == passes[0][i - 5] + 1 ? 1 : 0;
    EXPECT_LT(successors, 150);  // about 1200 / 14, by chance, in blocks of 14 rows
}

// As numbered_dataset, with targets in other types.
Dataset paired_dataset(const Folder& folder) {
    write_paired(folder / "a.h5", "r/0", Type::float16, "t/0", Type::float32, 0, 701, n);
    write_paired(folder / "b.h5", "r/0", Type::bfloat16, "t/0", Type::bfloat16, 701, 13, n);
    write_paired(folder / "c.h5", "r/0", Type::float32, "t/0", Type::float16, 714, 583, n);
    return find_datasets({folder / "*.h5"}, {"r/0"}, "t/*")[0];
}

TEST(Target, EveryRowComesWithItsTargetInTheOrderOfTheInput) {
    const Folder folder;
    const Dataset dataset = paired_dataset(folder);
    Dataset alone = dataset;
    alone.target = nullptr;
    InputStatistics statistics;
    statistics.norm_limit = 40;
    statistics.scale = 0.25;
    for (const std::int64_t shuffle_rows : {10, 300, 100000}) {
        const DataConfig config = config_of(5, shuffle_rows, 97);
        std::vector<LaneCursor> expected_cursors;
        const auto expected = global_batches(alone, config, 1, 110, 44, expected_cursors, statistics);
        for (const int ranks : {1, 2, 3, 4, 7}) {
            std::vector<LaneCursor> cursors;
            EXPECT_EQ(global_batches(dataset, config, ranks, 50, 44, cursors, statistics),
                      std::vector(expected.begin(), expected.begin() + 50))
                << ranks;
            EXPECT_EQ(global_batches(dataset, config, 5 - ranks % 4, 60, 44, cursors, statistics),
                      std::vector(expected.begin() + 50, expected.end()))
                << ranks;
            EXPECT_TRUE(same(cursors, expected_cursors)) << ranks;
        }
    }
}

TEST(Target, GoesOnFromOtherCursors) {
    const Folder folder;
    const Dataset dataset = paired_dataset(folder);
    Stream stream(dataset, config_of(3, 100, 0), {}, 30, 1, 0, 1);
    stream.next();
    const auto cursors = stream.cursors();
    const auto numbers = numbers_of(stream.next());
    for (int s = 0; s < 20; ++s) stream.next();
    stream.rewind(cursors);
    EXPECT_EQ(numbers_of(stream.next()), numbers);
}

TEST(Target, NonFiniteValuesEndTheRunEvenWhereTheRowIsSkipped) {
    const Folder folder;
    for (const bool skipped : {false, true}) {
        const std::string path = folder / (skipped ? "skipped.h5" : "kept.h5");
        write_paired(path, "r/0", Type::float32, "t/0", Type::bfloat16, 0, 500, n,
                     [&](std::int64_t row, std::vector<float>& x, std::vector<float>& target) {
                         if (row != 321) return;
                         if (skipped) x[5] = 1e6F;
                         target[4] = std::numeric_limits<float>::infinity();
                     });
        const Dataset dataset = find_datasets({path}, {"r/0"}, "t/0")[0];
        InputStatistics statistics;
        statistics.norm_limit = 1000;
        const auto steps_until_failure = [&] {
            Stream stream(dataset, config_of(4, 64, 0), statistics, 4, 1, 0, 1);
            int steps = 0;
            std::string text;
            while (text.empty() && steps < 1000) text = thrown<RunError>([&] { stream.next(), ++steps; });
            EXPECT_THAT(text, HasSubstr(path + ": t/0: row 321: element 4 is inf"));
            EXPECT_EQ(thrown<RunError>([&] { stream.next(); }), text);
            return steps;
        };
        const int steps = steps_until_failure();
        EXPECT_EQ(steps_until_failure(), steps);
    }
}

TEST(Stream, RowsAreThoseOfTheFileScaled) {
    const Folder folder;
    const Dataset dataset = numbered_dataset(folder);
    InputStatistics statistics;
    statistics.scale = 0.25;
    Stream stream(dataset, config_of(3, 100, 0), statistics, 30, 1, 0, 1);
    for (int s = 0; s < 40; ++s) {
        const Batch batch = stream.next();
        for (std::int64_t r = 0; r < batch.rows; ++r) {
            const float* const row = &batch.x[static_cast<std::size_t>(r * n)];
            const auto expected = numbered_row(number_of(row, 0.25F), n);
            for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(row[i], 0.25F * expected[i]);
        }
    }
}

TEST(Stream, GoesOnFromCursorsAtEveryStepAndRankCount) {
    const Folder folder;
    const Dataset dataset = numbered_dataset(folder);
    const DataConfig config = config_of(6, 250, 300);
    InputStatistics statistics;
    statistics.norm_limit = 40;  // some rows of every block are over it
    constexpr int steps = 70;
    std::vector<LaneCursor> all;
    const auto expected = global_batches(dataset, config, 1, steps, 44, all, statistics);
    std::uint64_t skipped = 0;
    for (const LaneCursor& cursor : all) skipped += cursor.skipped;
    EXPECT_GT(skipped, 0);
    for (int stop = 0; stop < steps; ++stop) {
        std::vector<LaneCursor> cursors;
        auto batches = global_batches(dataset, config, 1 + stop % 5, stop, 44, cursors, statistics);
        const auto rest =
            global_batches(dataset, config, 1 + stop % 3, steps - stop, 44, cursors, statistics);
        batches.insert(batches.end(), rest.begin(), rest.end());
        ASSERT_EQ(batches, expected) << stop;
        ASSERT_TRUE(same(cursors, all)) << stop;
    }
}

TEST(Stream, RowsOverTheLimitAreSkippedAndCounted) {
    const Folder folder;
    {
        Writer writer(folder / "a.h5");
        const std::size_t d = writer.add({"r/0", n, Type::float16, "", "", -1});
        for (int r = 0; r < 1000; ++r) {
            auto row = numbered_row(r, n);
            if (r % 50 == 3) row[n - 1] = 20000;
            writer.append(d, row);
        }
        writer.finish();
    }
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"r/0"})[0];
    InputStatistics statistics;
    statistics.norm_limit = 300;
    const DataConfig config = config_of(4, 64, 0);
    for (const int ranks : {1, 3}) {
        std::vector<LaneCursor> cursors;
        // 980 rows are left of a pass: after that many every lane is at the end of its first pass or about
        // there.
        std::map<std::int64_t, int> seen;
        for (const auto& batch : global_batches(dataset, config, ranks, 245 * 4, 4, cursors, statistics))
            for (const std::int64_t number : batch) {
                EXPECT_NE(number % 50, 3);
                ++seen[number];
            }
        EXPECT_EQ(seen.size(), 980);
        std::uint64_t skipped = 0;
        for (const LaneCursor& cursor : cursors) skipped += cursor.skipped;
        EXPECT_NEAR(static_cast<double>(skipped), 4 * 20, 6);
    }
    // The count is that of the blocks begun: at the first step, one block of 8 rows per lane.
    std::vector<LaneCursor> cursors;
    global_batches(dataset, config_of(4, 8000, 0), 1, 1, 4, cursors, statistics);
    std::uint64_t skipped = 0;
    for (const LaneCursor& cursor : cursors) skipped += cursor.skipped;
    EXPECT_EQ(skipped, 20);
}

TEST(Stream, TinyDatasetsTurnRoundAndRound) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 7, n);
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"r/0"})[0];
    std::vector<LaneCursor> cursors;
    const auto expected = global_batches(dataset, config_of(5, 1, 2), 1, 30, 64, cursors);
    for (const auto& batch : expected)
        for (const std::int64_t number : batch) EXPECT_LT(number, 5);
    EXPECT_GT(cursors[0].pass, 100);
    std::vector<LaneCursor> again;
    EXPECT_EQ(global_batches(dataset, config_of(5, 1, 2), 3, 30, 64, again), expected);
}

TEST(Stream, TooFewRowsAreRefused) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 100, n);
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"r/0"})[0];
    EXPECT_THAT(thrown<UsageError>([&] { Stream(dataset, config_of(4, 64, 100), {}, 4, 1, 0, 1); }),
                HasSubstr("r/0: data.eval_rows keeps back 100 rows, but there are only 100"));
    EXPECT_THAT(thrown<UsageError>([&] { Stream(dataset, config_of(64, 64, 50), {}, 4, 1, 0, 1); }),
                HasSubstr("r/0: 50 rows to train on are fewer than the 64 lanes"));
    EXPECT_THAT(thrown<RunError>([&] {
                    Stream(dataset, config_of(4, 64, 50), {}, 4, 1, 0, 1, std::vector<LaneCursor>(5));
                }),
                HasSubstr("5 lanes, the configuration 4"));
    EXPECT_THAT(thrown<RunError>([&] {
                    std::vector<LaneCursor> cursors(4);
                    cursors[2].offset = 1000;
                    Stream(dataset, config_of(4, 64, 50), {}, 4, 1, 0, 1, cursors).next();
                }),
                HasSubstr("the files are not those of the checkpoint"));
}

TEST(Stream, NonFiniteRowEndsTheRunAtTheStepThatNeedsIt) {
    const Folder folder;
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
        const std::string path = folder / fmt::format("{}.h5", bad);
        Writer writer(path);
        const std::size_t d = writer.add({"r/0", n, Type::bfloat16, "", "", -1});
        for (int r = 0; r < 500; ++r) {
            auto row = numbered_row(r, n);
            if (r == 321) row[5] = bad;
            writer.append(d, row);
        }
        writer.finish();
        const Dataset dataset = find_datasets({path}, {"r/0"})[0];
        const auto steps_until_failure = [&] {
            Stream stream(dataset, config_of(4, 64, 0), {}, 4, 1, 0, 1);
            int steps = 0;
            std::string text;
            while (text.empty() && steps < 1000) text = thrown<RunError>([&] { stream.next(), ++steps; });
            EXPECT_THAT(text, HasSubstr(fmt::format("{}: r/0: row 321: element 5 is {}", path, bad)));
            EXPECT_EQ(thrown<RunError>([&] { stream.next(); }), text);
            return steps;
        };
        const int steps = steps_until_failure();
        for (int repeat = 0; repeat < 5; ++repeat) EXPECT_EQ(steps_until_failure(), steps);
    }
}

TEST(Stream, DamagedChunkEndsTheRunWithItsPlace) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 20000, n);
    flip_byte(folder / "a.h5", std::filesystem::file_size(folder / "a.h5") / 2);
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"r/0"})[0];
    Stream stream(dataset, config_of(4, 4096, 0), {}, 400, 1, 0, 1);
    EXPECT_THAT(thrown<RunError>([&] {
                    for (int s = 0; s < 50; ++s) stream.next();
                }),
                AllOf(HasSubstr("a.h5: r/0: rows "), HasSubstr("do not match their fletcher32 checksum")));
}

TEST(Stream, NoRowWithinTheLimitIsAnError) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 500, n);
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"r/0"})[0];
    InputStatistics statistics;
    statistics.norm_limit = 0.5;
    Stream stream(dataset, config_of(4, 64, 0), statistics, 4, 1, 0, 1);
    EXPECT_THAT(thrown<RunError>([&] { stream.next(); }),
                HasSubstr("have a norm above the limit 0.5; raise data.max_norm_ratio"));
}

TEST(Stream, EndsPromptlyWhileReading) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 5000, n);
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"r/0"})[0];
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 50; ++i) {
        Stream stream(dataset, config_of(4, 4000, 0), {}, 64, 1, 0, 1);
        if (i % 2 == 0) stream.next();
    }
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

// Bytes of a file that the page cache has; with `drop` after it was asked to give up what is on the disk.
std::size_t cached_bytes(const std::filesystem::path& path, bool drop) {
    const int file = ::open(path.c_str(), O_RDONLY);
    if (drop) {
        EXPECT_EQ(::fsync(file), 0);
        EXPECT_EQ(::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), 0);
    }
    const std::size_t size = std::filesystem::file_size(path);
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    void* const mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
    ::close(file);
    std::vector<unsigned char> present((size + page - 1) / page);
    EXPECT_EQ(::mincore(mapped, size, present.data()), 0);
    ::munmap(mapped, size);
    return page * static_cast<std::size_t>(
                      std::ranges::count_if(present, [](unsigned char p) { return (p & 1) != 0; }));
}

// Groups that are far apart on one dataset are served by the page cache: what one has read, the others do not
// read from the disk. (A file system that lives in memory drops nothing.)
TEST(Stream, LeavesWhatItReadInThePageCache) {
    const Folder folder;
    constexpr std::int64_t rows = 30000;
    write_numbered(folder / "a.h5", "r/0", Type::float32, 0, rows, n);
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"r/0"})[0];
    const std::size_t before = cached_bytes(folder / "a.h5", true);
    Stream stream(dataset, config_of(4, 1000, 0), {}, 1000, 7, 0, 1);
    for (int step = 0; step < 30; ++step) stream.next();
    const std::size_t after = cached_bytes(folder / "a.h5", false);
    EXPECT_GE(after, rows * n * sizeof(float)) << "of " << before << " before";
}

}  // namespace
}  // namespace strata::data
