#pragma once
// The float32 product of oneDNN.

#include <cstdint>

namespace strata::device {

// out[rows, columns] = factor * a . b + keep * out, all row-major; 'T': the operand is stored transposed. The
// columns of b and out, or the rows of a stored transposed, may be part of wider matrices (`stride`, 0: they
// are not). Called inside a parallel region it runs on the calling thread. RunError if oneDNN refuses.
struct Strides {
    std::int64_t a = 0, b = 0, out = 0;
};
void multiply(char transpose_a, char transpose_b, std::int64_t rows, std::int64_t columns, std::int64_t inner,
              float factor, const float* a, const float* b, float keep, float* out, Strides strides = {});

}  // namespace strata::device
