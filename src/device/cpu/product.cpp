#include "device/cpu/product.h"

#include <dnnl.hpp>

#include "base/error.h"

namespace strata::device {

void multiply(char transpose_a, char transpose_b, std::int64_t rows, std::int64_t columns, std::int64_t inner,
              float factor, const float* a, const float* b, float keep, float* out, Strides strides) {
    if (rows == 0 || columns == 0) return;
    if (strides.a == 0) strides.a = transpose_a == 'N' ? inner : rows;
    if (strides.b == 0) strides.b = transpose_b == 'N' ? columns : inner;
    if (strides.out == 0) strides.out = columns;
    if (inner == 0) {  // no rows of a batch, which oneDNN refuses
        for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t c = 0; c < columns; ++c) {
                float& value = out[r * strides.out + c];
                value = keep == 0 ? 0 : keep * value;
            }
        return;
    }
    const dnnl_status_t status = dnnl_sgemm(transpose_a, transpose_b, rows, columns, inner, factor, a,
                                            strides.a, b, strides.b, keep, out, strides.out);
    if (status != dnnl_success)
        fail("dnnl_sgemm of {} x {} x {} failed with status {}", rows, columns, inner, int(status));
}

}  // namespace strata::device
