#include "data/order.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <span>

#include "base/error.h"
#include "base/random.h"

namespace strata::data {

Runs::Runs(const Dataset& dataset, std::int64_t rows, std::int64_t run_rows) : run_rows_(run_rows) {
    std::int64_t count = 0;
    for (const FilePart& part : dataset.parts) {
        const std::int64_t used = std::min(part.rows, rows - part.first);
        if (used <= 0) break;
        parts_.push_back({static_cast<std::uint32_t>(count), {part.first, used}});
        count += (used + run_rows - 1) / run_rows;
    }
    STRATA_ASSERT(count <= std::numeric_limits<std::uint32_t>::max());
    count_ = static_cast<std::uint32_t>(count);
}

Run Runs::operator[](std::uint32_t run) const {
    const Part& part = *std::prev(std::ranges::upper_bound(parts_, run, {}, &Part::first_run));
    const std::int64_t skip = static_cast<std::int64_t>(run - part.first_run) * run_rows_;
    return {part.rows.first + skip, std::min(run_rows_, part.rows.rows - skip)};
}

std::int64_t run_rows_for(const Dataset& dataset, std::int64_t rows, std::int64_t lanes) {
    const std::int64_t chunk = dataset.parts.front().chunk_rows;
    const std::int64_t preferred = chunk >= 64 && chunk <= 4096 ? chunk : 256;
    return std::max<std::int64_t>(1, std::min(preferred, rows / (8 * lanes)));
}

PassOrder::PassOrder(const Runs& runs, std::uint64_t seed, std::uint64_t pass)
    : runs_(runs), permuted_(runs.count()), starts_(runs.count()) {
    std::iota(permuted_.begin(), permuted_.end(), 0U);
    shuffle(std::span(permuted_), Random(seed, Purpose::chunk_order, pass));
    std::int64_t start = 0;
    for (std::size_t i = 0; i < permuted_.size(); ++i) {
        starts_[i] = start;
        start += runs_[permuted_[i]].rows;
    }
}

Run PassOrder::first_piece(std::int64_t begin, std::int64_t end) const {
    const auto at = static_cast<std::size_t>(std::ranges::upper_bound(starts_, begin) - starts_.begin()) - 1;
    const Run run = runs_[permuted_[at]];
    const std::int64_t skip = begin - starts_[at];
    return {run.first + skip, std::min(run.rows - skip, end - begin)};
}

}  // namespace strata::data
