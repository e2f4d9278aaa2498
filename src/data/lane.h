#pragma once
// One lane of the stream: its share of each pass, read in blocks, filtered, shuffled, served.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "data/dataset.h"
#include "data/order.h"
#include "data/stream.h"

namespace strata::data {

// Thrown out of a read when the stream is being destroyed.
struct Abandoned {};

// What the lanes of a rank share.
struct LaneSource {
    LaneSource(const Dataset& dataset, const DataConfig& config, const InputStatistics& statistics,
               std::uint64_t seed);

    Dataset dataset;
    Reader reader;
    std::int64_t rows;        // N, of a pass
    std::int64_t lanes;       // L, of all ranks
    std::int64_t block_rows;  // read and shuffled together
    Runs runs;
    Type held;  // element type of blocks: the files', or float32 where they differ
    double norm_limit;
    float scale;
    std::uint64_t seed;
    std::atomic<bool> abandoned = false;

    std::size_t row_bytes() const { return static_cast<std::size_t>(dataset.n) * size_of(held); }

    // Rows [first, first + rows) of the pass's order.
    std::shared_ptr<const PassOrder> order(std::uint64_t pass);

  private:
    std::map<std::uint64_t, std::weak_ptr<const PassOrder>>
        orders_;  // kept alive by the blocks that use them
};

// Rows of a lane's range that are shuffled together.
struct Block {
    std::span<std::byte> memory;  // [block_rows, n] of source.held
    std::uint64_t pass = 0;
    std::uint64_t number = 0;  // in the lane's range of the pass
    bool loaded = false;
    std::vector<std::uint32_t> order;  // which rows of `memory` to serve, in order
    std::uint64_t skipped = 0;         // rows over the norm limit
    std::exception_ptr failure;  // of reading; thrown when the block's turn comes, so always at the same step
    std::shared_ptr<const PassOrder> pass_order;
};

class Lane {
  public:
    // Each memory holds source.block_rows rows. `source` outlives the lane.
    Lane(LaneSource& source, std::int64_t index, const LaneCursor& cursor, std::span<std::byte> memory,
         std::span<std::byte> other_memory);

    // The next rows, [out.size() / n, n], scaled.
    void serve(std::span<float> out);

    // Reads the block after the present one. False if it is there already.
    bool read_ahead();

    // Where the lane stands after the last serve().
    const LaneCursor& cursor() const { return cursor_; }

  private:
    Run range() const;
    void load(Block& block, std::uint64_t pass, std::uint64_t number);
    void read(Block& block, const Run& rows);
    void begin_block();
    void end_block();
    std::pair<std::uint64_t, std::uint64_t> after(std::uint64_t pass, std::uint64_t number) const;

    LaneSource& source_;
    std::int64_t index_;
    LaneCursor cursor_;
    Block current_, next_;
    bool begun_ = false;  // the present block is loaded and its skipped rows are counted
    std::int64_t skipped_in_a_row_ = 0;
};

}  // namespace strata::data
