#pragma once
// One lane of the stream: its share of each pass, read in blocks, filtered, shuffled, served.
//
// A lane has slots for the rows of one block. A served row frees its slot for a row of the next block, which
// is read run by run as room appears; a block is shuffled by the order in which its slots are served, so rows
// need not lie in any order of their own. When the present block ends, every slot is free or holds a row of
// the next.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/memory.h"
#include "data/batch.h"
#include "data/dataset.h"
#include "data/order.h"
#include "data/stream.h"

namespace strata::data {

// Thrown out of a read when the stream is being destroyed.
struct Abandoned {};

// As which lanes hold the rows of a dataset: the files' type, or float32 where they differ.
Type type_of(const Dataset& dataset);

// Rows of a lane that are shuffled together, of `rows` of a pass.
std::int64_t block_rows_for(const DataConfig& config, std::int64_t rows);

// A dataset as lanes hold its rows.
struct HeldRows {
    HeldRows(const Dataset& dataset, std::int64_t longest_run);

    Dataset dataset;
    Reader reader;
    Type type;

    std::size_t row_bytes() const { return static_cast<std::size_t>(dataset.n) * size_of(type); }

    // The rows of a run, of one file or several, until the next call.
    std::span<const std::byte> read(const Run& run);
    // Row i of rows so held.
    std::span<const std::byte> row(std::span<const std::byte> rows, std::int64_t i) const {
        return rows.subspan(static_cast<std::size_t>(i) * row_bytes(), row_bytes());
    }

  private:
    Array<std::byte> staging_;  // one run
};

// What the lanes of a rank share.
struct LaneSource {
    LaneSource(const Dataset& dataset, const DataConfig& config, const InputStatistics& statistics,
               std::uint64_t seed);

    std::int64_t rows;        // N, of a pass
    std::int64_t lanes;       // L, of all ranks
    std::int64_t block_rows;  // read and shuffled together
    Runs runs;
    HeldRows x;
    std::optional<HeldRows> target;  // where the dataset has one
    double norm_limit;
    std::uint64_t seed;
    std::atomic<bool> abandoned = false;

    // Rows [first, first + rows) of the pass's order.
    std::shared_ptr<const PassOrder> order(std::uint64_t pass);

  private:
    std::map<std::uint64_t, std::weak_ptr<const PassOrder>>
        orders_;  // kept alive by the blocks that use them
};

// Room for the rows of one block of a lane.
struct Slots {
    std::span<std::byte> x;       // [block_rows, n] of source.x.type
    std::span<std::byte> target;  // [block_rows, n] of source.target->type; empty where there is none
};

// Rows of a lane's range that are shuffled together.
struct Block {
    std::uint64_t pass = 0;
    std::uint64_t number = 0;          // in the lane's range of the pass
    std::int64_t begin = 0, end = 0;   // rows of the pass's order that are still to be read
    Run next;                          // the first of them, which are read together
    bool opened = false;               // its rows are known
    bool loaded = false;               // all its rows are read, or one cannot be
    std::vector<std::uint32_t> order;  // slots of the rows read; once loaded, in the order of serving
    LeftOut left_out;
    std::exception_ptr failure;  // of reading; thrown when the block's turn comes, so always at the same step
    std::shared_ptr<const PassOrder> pass_order;
};

class Lane {
  public:
    // `source` outlives the lane.
    Lane(LaneSource& source, std::int64_t index, const LaneCursor& cursor, const Slots& slots);

    // The next `rows` rows, and their targets, as rows [first, first + rows) of a batch.
    void serve(BatchRoom& batch, std::int64_t first, std::int64_t rows);

    // Reads a run of the block after the present one. False if nothing can be read before more rows are
    // served: the block is there already, or the slots of the run are not free yet.
    bool read_ahead();

    // Where the lane stands after the last serve().
    const LaneCursor& cursor() const { return cursor_; }

  private:
    Run range() const;
    void open(Block& block, std::uint64_t pass, std::uint64_t number);
    void advance(Block& block);
    void read(Block& block, const Run& run);
    void read_run(Block& block);
    void begin_block();
    void end_block();
    std::pair<std::uint64_t, std::uint64_t> after(std::uint64_t pass, std::uint64_t number) const;

    LaneSource& source_;
    std::int64_t index_;
    LaneCursor cursor_;
    Slots slots_;
    std::vector<std::uint32_t> free_;  // slots that hold no row still to be served
    Block current_, next_;
    bool begun_ = false;  // the present block is loaded and the rows that it leaves out are counted
    LeftOut in_a_row_;    // since a block with rows to serve
};

}  // namespace strata::data
