#pragma once
// Reads whole datasets and reports what training should know of them.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace strata::data {

// The datasets of one name over several files, as find_datasets makes them, but with every obstacle listed
// instead of thrown.
struct Survey {
    std::vector<Dataset> datasets;      // of what can be read
    std::vector<std::string> problems;  // a sentence for each file or dataset that cannot be
};
Survey survey(const std::vector<std::string>& file_patterns, const std::vector<std::string>& name_patterns);

struct CheckReport {
    std::int64_t rows = 0;
    std::int64_t unreadable_rows = 0;    // in chunks that do not read; in no other count
    std::vector<std::string> failures;   // why, with file and rows; at most 20
    std::int64_t non_finite_values = 0;  // NaN and infinities
    std::int64_t non_finite_rows = 0;    // rows with such; not in the norms
    std::string first_non_finite;        // its place; empty: none
    double min_norm = 0, max_norm = 0;   // of finite rows, unscaled
    double median_norm = 0;              // to 1 part in 2000
    double mean_square = 0;              // E|x|^2
    std::int64_t sinks = 0;             // rows with more than 10 times the median norm; likewise to 1 in 2000
    std::int64_t zero_rows = 0;         // all elements zero
    std::int64_t duplicate_rows = 0;    // equal to an earlier row byte by byte, zero rows not counted
    bool duplicates_estimated = false;  // from a sample, above 2^26 rows
    std::vector<std::string> notes;     // nothing wrong, but worth knowing

    // Unreadable, non-finite or all-zero rows. Sinks and duplicates are usual: the first token of every
    // context.
    bool wrong() const { return unreadable_rows > 0 || non_finite_values > 0 || zero_rows > 0; }
};

// Reads every row once, so that checksums are verified where there are any. `progress` is told the rows done.
// Memory: a chunk, 8 bytes per row (of at most 2^26 rows), and 8 MiB.
CheckReport check(const Dataset& dataset, const std::function<void(std::int64_t)>& progress = {});

}  // namespace strata::data
