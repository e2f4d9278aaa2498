// Rows that groups of ranks of one host read once: what is taken from memory is what the file has, the oldest
// makes room, and a process that is gone or stopped in the midst costs others one wait and one place.

#include "data/shared_rows.h"

#include <gmock/gmock.h>
#include <sys/wait.h>

#include <cstdlib>
#include <thread>

#include "base/random.h"
#include "comm/self.h"
#include "data/corrupt.h"
#include "data/files.h"
#include "data/stream.h"
#include "support/log.h"

namespace strata::data {
namespace {

using Piece = SharedRows::Piece;
using std::chrono::milliseconds;

constexpr std::int64_t row = 8;  // bytes

std::byte byte_of(const Piece& piece, std::size_t i) {
    return static_cast<std::byte>(piece.dataset * 101 + static_cast<std::size_t>(piece.first) * 7 +
                                  static_cast<std::size_t>(piece.rows) * 31 + i);
}

SharedMemory memory_of(const SharedRowsSize& size) {
    return *make_self_communicator()->share(static_cast<std::size_t>(size.bytes()));
}

// Fetches a piece and checks it; whether it was read.
bool fetch(SharedRows& rows, const Piece& piece, bool whole = true) {
    std::vector<std::byte> out(static_cast<std::size_t>(piece.rows * row));
    bool read = false;
    rows.fetch(piece, out, [&] {
        for (std::size_t i = 0; i < out.size(); ++i) out[i] = byte_of(piece, i);
        read = true;
        return whole;
    });
    for (std::size_t i = 0; i < out.size(); ++i)
        if (out[i] != byte_of(piece, i)) {
            ADD_FAILURE() << piece.dataset << " " << piece.first << " " << piece.rows << ": byte " << i;
            break;
        }
    return read;
}

TEST(SharedRows, AreReadOnceByAllThatReachTheMemory) {
    const SharedRowsSize size{64, 4};
    const SharedMemory memory = memory_of(size);
    SharedRows one(memory, size), two(memory, size);
    EXPECT_TRUE(fetch(one, {1, 0, 8}));
    EXPECT_FALSE(fetch(two, {1, 0, 8}));
    EXPECT_TRUE(fetch(two, {2, 0, 8}));  // of another dataset
    EXPECT_TRUE(fetch(two, {1, 0, 7}));  // cut elsewhere
    EXPECT_FALSE(fetch(one, {2, 0, 8}));
    EXPECT_EQ(one.rows_read(), 8);
    EXPECT_EQ(one.rows_taken(), 8);
    EXPECT_EQ(two.rows_read(), 15);
    EXPECT_EQ(two.rows_taken(), 8);
}

TEST(SharedRows, TheOldestMakesRoom) {
    const SharedRowsSize size{64, 4};
    SharedRows rows(memory_of(size), size);
    for (std::int64_t i = 0; i < 5; ++i) EXPECT_TRUE(fetch(rows, {1, i, 8}));
    for (std::int64_t i = 1; i < 5; ++i) EXPECT_FALSE(fetch(rows, {1, i, 8}));
    EXPECT_TRUE(fetch(rows, {1, 0, 8}));
    EXPECT_TRUE(fetch(rows, {1, 1, 8}));
}

TEST(SharedRows, WhatIsTooLongCorruptOrCannotBeReadIsNotKept) {
    const SharedRowsSize size{64, 4};
    SharedRows rows(memory_of(size), size);
    EXPECT_EQ(rows.most_rows(row), 8);
    EXPECT_EQ(rows.most_rows(1000), 1);
    for (int again = 0; again < 2; ++again) {
        EXPECT_TRUE(fetch(rows, {1, 0, 9}));
        EXPECT_TRUE(fetch(rows, {1, 0, 8}, false));
        std::vector<std::byte> out(8);
        EXPECT_THROW(rows.fetch({1, 50, 1}, out, []() -> bool { throw RunError("no disk"); }), RunError);
    }
    for (std::int64_t i = 0; i < 4; ++i) fetch(rows, {1, i, 8});
    for (std::int64_t i = 0; i < 4; ++i) EXPECT_FALSE(fetch(rows, {1, i, 8}));  // no place is lost
}

// Killed while it reads: it keeps its place. Killed while it copies: likewise.
TEST(SharedRows, AProcessThatIsGoneCostsItsPlace) {
    const SharedRowsSize size{64, 3};
    const SharedMemory memory = memory_of(size);
    const pid_t child = ::fork();
    if (child == 0) {
        SharedRows rows(memory, size);
        std::vector<std::byte> out(64);
        rows.fetch({1, 0, 8}, out, []() -> bool { std::_Exit(0); });
    }
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    SharedRows rows(memory, size, milliseconds(1));
    EXPECT_TRUE(fetch(rows, {1, 0, 8}));  // after a wait
    for (std::int64_t i = 1; i < 20; ++i) EXPECT_TRUE(fetch(rows, {1, i, 8}));
    EXPECT_FALSE(fetch(rows, {1, 18, 8}));
    EXPECT_FALSE(fetch(rows, {1, 19, 8}));
    EXPECT_TRUE(fetch(rows, {1, 17, 8}));
}

TEST(SharedRows, ManyAtOnceGetTheirOwnBytes) {
    const SharedRowsSize size{64, 5};
    const SharedMemory memory = memory_of(size);
    std::vector<std::jthread> threads;
    for (std::uint64_t t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            SharedRows rows(memory, size);
            Random random(3, Purpose::row_order, t);
            for (int i = 0; i < 20000; ++i) {
                const auto draw = [&](int below) {
                    return static_cast<std::int64_t>(random.uniform() * static_cast<float>(below));
                };
                fetch(rows, {static_cast<std::uint32_t>(1 + draw(2)), draw(4), 1 + draw(8)});
            }
        });
}

// Two groups of different numbers of ranks, side by side: their batches are those of reading alone, and the
// rows are read once.
TEST(SharedRows, ServeTheSameBatches) {
    const Folder folder;
    constexpr std::int64_t n = 9;
    write_paired(folder / "a.h5", "r/0", Type::float16, "t/0", Type::float32, 0, 1100, n);
    write_paired(folder / "b.h5", "r/0", Type::bfloat16, "t/0", Type::float32, 1100, 300, n);
    const Dataset alone = find_datasets({folder / "*.h5"}, {"r/0"}, "t/*")[0];
    const DataConfig config = config_of(6, 1024, 100);
    using Streams = std::vector<std::unique_ptr<Stream>>;
    const auto group = [&](const Dataset& dataset, int ranks) {
        Streams streams;
        for (int r = 0; r < ranks; ++r)
            streams.push_back(std::make_unique<Stream>(dataset, config, InputStatistics{}, 60, 7, r, ranks));
        return streams;
    };
    const auto next = [](const Streams& streams) {
        std::vector<float> rows;
        for (const auto& stream : streams) {
            const Batch batch = stream->next();
            rows.insert(rows.end(), batch.x.begin(), batch.x.end());
            rows.insert(rows.end(), batch.target.begin(), batch.target.end());
        }
        return rows;
    };
    const SharedRowsSize size = shared_rows_size({alone}, config);
    const SharedMemory memory = memory_of(size);
    const auto one = std::make_shared<SharedRows>(memory, size),
               two = std::make_shared<SharedRows>(memory, size),
               other = std::make_shared<SharedRows>(memory, size);
    {
        const Streams alone1 = group(alone, 1), alone2 = group(alone, 2),
                      shared1 = group(sharing(alone, one, 0), 1), shared2 = group(sharing(alone, two, 0), 2);
        for (int step = 0; step < 50; ++step) {
            EXPECT_EQ(next(shared1), next(alone1)) << step;
            EXPECT_EQ(next(shared2), next(alone2)) << step;
        }
    }
    // By both together, inputs and targets of 3000 rows each and what was read ahead: half of it is taken, at
    // least.
    EXPECT_GE(one->rows_taken() + two->rows_taken(), 6000);
    EXPECT_LE(one->rows_read() + two->rows_read(), one->rows_taken() + two->rows_taken());
    EXPECT_EQ(next(group(sharing(alone, other, 1), 1)), next(group(alone, 1)));  // as another dataset
    EXPECT_EQ(other->rows_taken(), 0);
}

TEST(SharedRows, EveryReaderTellsOfCorruptRowsByItself) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float32, 0, 700, 9);
    damage_chunk(folder / "a.h5", "r/0", 1);
    const DataConfig config = config_of(1, 1024, 100);
    const Dataset files = find_datasets({folder / "a.h5"}, {"r/0"}, "", true)[0];
    const SharedRowsSize size = shared_rows_size({files}, config);
    const SharedMemory memory = memory_of(size);
    for (int group = 0; group < 2; ++group) {
        Dataset dataset = sharing(files, std::make_shared<SharedRows>(memory, size), 0);
        dataset.corrupt = std::make_shared<CorruptChunks>();
        const test::Logged log;
        Reader reader(dataset);
        std::vector<float> out(256 * 9);
        reader.read(256, out);
        EXPECT_THAT(log.lines(), testing::ElementsAre(testing::AllOf(testing::HasSubstr("rows 256 to 511"),
                                                                     testing::HasSubstr("cannot be read"))));
    }
}

}  // namespace
}  // namespace strata::data
