#include "data/norm.h"

#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"
#include "data/convert.h"
#include "data/corrupt.h"

namespace strata::data {

double squared_norm(Type type, std::span<const std::byte> row, const Dataset& dataset, std::int64_t index) {
    const float fast = sum_of_squares(type, row);
    if (std::isfinite(fast)) return static_cast<double>(fast);
    // An element is not finite, or the sum is too large for float32.
    std::vector<float> values(row.size() / size_of(type));
    to_float(type, row, values);
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i])) {
            const std::string found = fmt::format("element {} is {}", i, values[i]);
            if (!dataset.corrupt)
                fail(
                    "{}: {}; only finite activations can be trained on: remove such rows (`strata data "
                    "check` "
                    "finds them all); data.skip_corrupt leaves out what cannot be used",
                    place_of(dataset, index), found);
            dataset.corrupt->report(dataset, index,
                                    fmt::format("row {}: {}", index - part_of(dataset, index).first, found));
            return std::numeric_limits<double>::quiet_NaN();
        }
        sum += static_cast<double>(values[i]) * values[i];
    }
    return sum;
}

}  // namespace strata::data
