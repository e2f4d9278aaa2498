#pragma once
// The stream of training rows: permuted chunks, shuffled in blocks, cut into lanes so that step t's global
// batch is the same rows, in the same order, at any number of ranks.
//
// Let N be the training rows of the dataset (all but the last eval_rows). In pass p the dataset's chunks
// (runs of consecutive rows of one file, order.h) are permuted by Random(seed, chunk_order, p), which gives a
// virtual order of the N rows; lane l of L owns the virtual rows [l N / L, (l+1) N / L). A lane reads its
// range in blocks of shuffle_rows / (2 L) rows, drops rows over the norm limit (and corrupt ones, corrupt.h,
// where the dataset leaves them out) and serves the rest in an
// order permuted by Random(seed, row_order, (p, l, block)); the rows of the next block take the places of
// those served. A lane that ends its range begins the next pass at once, so no rank ever waits and nothing is
// lost at the end of a file or a pass: every row is served exactly once per pass of its lane.
//
// The global batch of a step has B rows: lane l gives the rows [l B / L, (l+1) B / L) of it. Rank r of R
// serves the lanes [r L / R, (r+1) L / R), so global row order is rank order. Lanes keep in step where L
// divides B; otherwise some give a row more per batch than others and come round sooner. More ranks than
// lanes leave some without rows.
//
// Where the dataset has a target (dataset.h), every row goes with its target row, from the reading to the
// batch; order, skipping and scale are those of the input.
//
// Memory, all ranks together: shuffle_rows / 2 rows in the files' element type (float32 where the files
// differ) and two batches in float32; a run for each rank; with a target the same again.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "data/batch.h"
#include "data/dataset.h"

namespace strata::data {

// What is measured once per dataset and kept in the checkpoint.
struct InputStatistics {
    double median_norm = 0;    // of the sampled raw rows
    double norm_limit = 0;     // max_norm_ratio * median_norm; 0: no limit
    double mean_square = 0;    // E|x|^2 of the sampled raw rows within the limit
    double scale = 1;          // training sees scale * x
    std::vector<double> mean;  // [n], of the sampled raw rows within the limit (unscaled)
    // [n], of the targets of the same rows (unscaled); empty where the dataset has none.
    std::vector<double> target_mean;
    std::int64_t sampled_rows = 0;
};

// N: the rows of the dataset without the last config.eval_rows. UsageError if none are left, or fewer than
// lanes.
std::int64_t training_rows(const Dataset& dataset, const DataConfig& config);

// Collective. Samples up to 65536 training rows, in runs of 32 spread evenly over the whole dataset, every
// rank its share; the result has the same bits at any number of ranks (64 partial sums, added in a fixed
// order). UsageError as training_rows, or for a scale that is neither a known word nor a positive number;
// RunError, on the rank that reads the row, for unreadable or non-finite rows, and on all ranks if a scale is
// to be measured and all rows are zero. Where corrupt rows are left out they are no part of the sample;
// RunError if nothing else is.
InputStatistics measure(const Dataset& dataset, const DataConfig& config, Communicator& comm);

// Where a lane stands. Everything else is a function of the seed.
struct LaneCursor {
    std::uint64_t pass = 0;
    std::uint64_t block = 0;   // of the lane's range in this pass
    std::uint64_t offset = 0;  // rows of the block already served
    // Rows over the norm limit in the blocks served to their end or begun, since the start.
    std::uint64_t skipped = 0;
    std::uint64_t corrupt = 0;  // corrupt rows left out in the same blocks
};

// Rows left out, counted.
struct LeftOut {
    std::uint64_t skipped = 0;  // over the norm limit
    std::uint64_t corrupt = 0;
};

// One per rank and dataset. A background thread reads, checks, converts and shuffles, so that next() normally
// has its batch ready. Not thread-safe; next() invalidates the previous batch.
class Stream {
  public:
    // `cursors`: all lanes' (config.lanes of them), from a checkpoint, or empty to begin. Reading begins at
    // once. `device`: the one that trains on the batches, which its memory is to reach while they wait; null:
    // they are read in host memory. UsageError as training_rows; RunError if the number of cursors is not
    // that of the lanes.
    Stream(const Dataset& dataset, const DataConfig& config, const InputStatistics& statistics,
           std::int64_t batch_size, std::uint64_t seed, int rank, int ranks,
           const std::vector<LaneCursor>& cursors = {}, device::Device* device = nullptr);
    ~Stream();

    // The next batch. RunError (from the background thread's reads) names file, dataset and rows: unreadable
    // or corrupted chunks, non-finite values, a lane without a row to serve in a whole pass. It comes
    // at the step that needs the row, whatever was read ahead, and again at every later call.
    Batch next();

    // Goes on from other cursors (all lanes'), in the memory it has.
    void rewind(const std::vector<LaneCursor>& cursors);

    // Cursors of *all* lanes as of the last batch handed out; only this rank's lanes are filled, the others
    // are zero, so that a sum over ranks gives all.
    std::vector<LaneCursor> cursors() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

// What the cursors count, of all lanes of all ranks. Collective.
LeftOut left_out(const Stream& stream, Communicator& comm);

// Bytes that the stream of one of `ranks` ranks takes, the one with the most lanes; see "Memory" above.
std::int64_t stream_bytes(const Dataset& dataset, const DataConfig& config, std::int64_t batch_size,
                          int ranks);

// Rows [l B / L, (l+1) B / L) for this rank's lanes, as a count; what Batch::rows will be.
std::int64_t local_rows(std::int64_t batch_size, std::int64_t lanes, int rank, int ranks);

}  // namespace strata::data
