#pragma once
// The outlier filter: which rows are skipped, by one rule wherever it is asked.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "data/dataset.h"

namespace strata::data {

// |row|^2 of a raw row of `type`; `index` is the row's in the dataset. RunError naming file, dataset, row and
// element if an element is not finite; where corrupt rows are left out (corrupt.h), NaN, and it is reported.
double squared_norm(Type type, std::span<const std::byte> row, const Dataset& dataset, std::int64_t index);

// False of a row that is to be left out as corrupt. RunError as squared_norm.
inline bool is_usable(Type type, std::span<const std::byte> row, const Dataset& dataset, std::int64_t index) {
    return !std::isnan(squared_norm(type, row, dataset, index));
}

inline bool within_limit(double squared, double norm_limit) {
    return norm_limit == 0 || squared <= norm_limit * norm_limit;
}

}  // namespace strata::data
