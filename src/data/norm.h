#pragma once
// The outlier filter: which rows are skipped, by one rule wherever it is asked.

#include <cstddef>
#include <cstdint>
#include <span>

#include "data/dataset.h"

namespace strata::data {

// |row|^2 of a raw row of `type`. RunError naming file, dataset, row and element if an element is not finite;
// `index` is the row's in the dataset.
double squared_norm(Type type, std::span<const std::byte> row, const Dataset& dataset, std::int64_t index);

// RunError as squared_norm.
inline void require_finite(Type type, std::span<const std::byte> row, const Dataset& dataset,
                           std::int64_t index) {
    static_cast<void>(squared_norm(type, row, dataset, index));
}

inline bool within_limit(double squared, double norm_limit) {
    return norm_limit == 0 || squared <= norm_limit * norm_limit;
}

}  // namespace strata::data
