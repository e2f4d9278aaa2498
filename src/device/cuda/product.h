#pragma once
// Matrix products by cuBLASLt.

#include <cublasLt.h>
#include <cuda_bf16.h>

#include <array>
#include <cstdint>
#include <map>

#include "device/cuda/runtime.h"

namespace strata::device::cuda {

// What the operands are rounded to. Sums are float32.
enum class Format { float32, tf32, bf16 };
inline const char* name_of(Format format) {
    return format == Format::float32 ? "float32" : format == Format::tf32 ? "tf32" : "bf16";
}

// A row-major matrix in device memory, or its transpose.
template <typename T>
struct Operand {
    const T* data;
    std::int64_t stride;
    bool transposed = false;
};

class Product {
  public:
    // No matrix of more elements than `most` is given to cuBLASLt, which may fail at 2^31
    // (github.com/NVIDIA/raft #3097): larger float32 products are made in parts.
    explicit Product(std::int64_t most = std::int64_t{1} << 30);
    ~Product();
    Product(const Product&) = delete;
    Product& operator=(const Product&) = delete;

    // out[rows, columns] = factor * a . b + keep * out, row-major, queued on the stream. The product's own
    // workspace is used, so all products must go to one stream. RunError if cuBLASLt refuses, or has no
    // algorithm.
    void multiply(std::int64_t rows, std::int64_t columns, std::int64_t inner, float factor, Operand<float> a,
                  Operand<float> b, float keep, float* out, std::int64_t stride, cudaStream_t stream,
                  Format format = Format::float32);
    void multiply(std::int64_t rows, std::int64_t columns, std::int64_t inner, float factor,
                  Operand<__nv_bfloat16> a, Operand<__nv_bfloat16> b, float keep, float* out,
                  std::int64_t stride, cudaStream_t stream);

    std::size_t bytes() const { return workspace_.bytes(); }

  private:
    struct Shape;
    void run(const Shape& shape, float factor, const void* a, const void* b, float keep, float* out,
             cudaStream_t stream);

    std::int64_t most_;
    cublasLtHandle_t handle_ = nullptr;
    DeviceArray<std::byte> workspace_{"the workspace of products"};
    // By shape, strides, alignments: asking takes longer than a small product.
    std::map<std::array<std::int64_t, 12>, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace strata::device::cuda
