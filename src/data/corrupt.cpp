#include "data/corrupt.h"

#include <algorithm>

#include "base/log.h"

namespace strata::data {
namespace {

// Rows of a file without chunks that one warning is for.
constexpr std::int64_t rows_together = 256;

}  // namespace

void CorruptChunks::report(const Dataset& dataset, std::int64_t row, const std::string& what) {
    const FilePart& part = part_of(dataset, row);
    const std::int64_t rows = part.chunk_rows > 0 ? part.chunk_rows : rows_together;
    const std::int64_t first = (row - part.first) / rows * rows;
    {
        const std::lock_guard lock(mutex_);
        if (!reported_.insert(part.first + first).second) return;
    }
    log::warn("{}: {}: rows {} to {}: corrupt rows are left out (data.skip_corrupt): {}", part.path,
              dataset.name, first, std::min(first + rows, part.rows) - 1, what);
}

}  // namespace strata::data
