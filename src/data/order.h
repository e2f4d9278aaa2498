#pragma once
// The order in which a pass visits the rows: runs of consecutive rows, permuted anew in every pass.

#include <cstdint>
#include <vector>

#include "data/dataset.h"

namespace strata::data {

// Consecutive rows of the dataset, all in one file.
struct Run {
    std::int64_t first = 0;
    std::int64_t rows = 0;
};

// The first `rows` rows of a dataset cut into runs of run_rows, starting anew with every file, so that a run
// and an HDF5 chunk are the same rows; the last run of a file may be shorter.
class Runs {
  public:
    Runs(const Dataset& dataset, std::int64_t rows, std::int64_t run_rows);
    std::uint32_t count() const { return count_; }
    std::int64_t run_rows() const { return run_rows_; }
    Run operator[](std::uint32_t run) const;

  private:
    struct Part {
        std::uint32_t first_run;
        Run rows;
    };
    std::vector<Part> parts_;
    std::int64_t run_rows_;
    std::uint32_t count_ = 0;
};

// Rows of a run: those of an HDF5 chunk of the first file if 64 to 4096, else 256, but at most an eighth of a
// lane's share, so that small datasets are shuffled too; at least 1.
std::int64_t run_rows_for(const Dataset& dataset, std::int64_t rows, std::int64_t lanes);

// The runs in the order of one pass. Costs 12 bytes per run; a run found by binary search.
class PassOrder {
  public:
    PassOrder(const Runs& runs, std::uint64_t seed, std::uint64_t pass);

    // The first of the consecutive pieces of the dataset that make up the pass's rows [begin, end); not
    // empty, at most a run.
    Run first_piece(std::int64_t begin, std::int64_t end) const;

  private:
    const Runs& runs_;
    std::vector<std::uint32_t> permuted_;
    std::vector<std::int64_t> starts_;  // of the permuted runs, in rows of the pass
};

}  // namespace strata::data
