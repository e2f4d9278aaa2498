#pragma once
// data.skip_corrupt: rows that cannot be used are left out instead of ending the run.
//
// A row is corrupt if a chunk of the file with elements of it cannot be read (a row by itself, where the file
// has no chunks), or if an element is not finite; where there is a target, also if the target's row is. That
// depends on the files alone, not on who reads them or how much at a time, so all ranks, passes and resumed
// runs leave out the same rows.

#include <cstdint>
#include <mutex>
#include <set>
#include <string>

#include "data/dataset.h"

namespace strata::data {

// Of a dataset whose corrupt rows are left out: the chunks that were found to have some.
class CorruptChunks {
  public:
    // Warns of the chunk with row `row` of the dataset, the first time only. `what` is wrong with it.
    void report(const Dataset& dataset, std::int64_t row, const std::string& what);

  private:
    std::mutex mutex_;
    std::set<std::int64_t> reported_;  // their first rows
};

}  // namespace strata::data
