#include "data/norm.h"

#include <cmath>
#include <vector>

#include "base/error.h"
#include "data/convert.h"

namespace strata::data {

double squared_norm(Type type, std::span<const std::byte> row, const Dataset& dataset, std::int64_t index) {
    const float fast = sum_of_squares(type, row);
    if (std::isfinite(fast)) return static_cast<double>(fast);
    // An element is not finite, or the sum is too large for float32.
    std::vector<float> values(row.size() / size_of(type));
    to_float(type, row, values);
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i]))
            fail(
                "{}: element {} is {}; only finite activations can be trained on: remove such rows (`strata "
                "data check` "
                "finds them all)",
                place_of(dataset, index), i, values[i]);
        sum += static_cast<double>(values[i]) * values[i];
    }
    return sum;
}

}  // namespace strata::data
