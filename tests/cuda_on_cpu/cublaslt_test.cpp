// The stand-in of cuBLASLt: right products, and the arguments that the library refuses refused.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "cuda_on_cpu.h"
#include "device/cuda/product.h"

namespace strata::device::cuda {
namespace {

struct CublasLtOnCpu : testing::Test {
    Stream stream;
    Product product;
    DeviceArray<float> a{"a"}, b{"b"}, out{"out"};
    std::vector<float> host_a, host_b;

    void fill(std::int64_t size_a, std::int64_t size_b) {
        Random random(3, Purpose::synthetic);
        for (std::int64_t i = 0; i < size_a; ++i) host_a.push_back(random.normal());
        for (std::int64_t i = 0; i < size_b; ++i) host_b.push_back(random.normal());
        upload(std::span<const float>(host_a), a, stream);
        upload(std::span<const float>(host_b), b, stream);
        stream.wait("the operands");
    }
    std::vector<float> result(std::int64_t size) {
        std::vector<float> to(static_cast<std::size_t>(size));
        download(out.data(), std::span(to), stream, "out");
        return to;
    }
};

TEST_F(CublasLtOnCpu, RowMajorProductsOfParts) {
    constexpr std::int64_t rows = 7, columns = 5, inner = 11, stride = 13;
    fill(stride * stride, stride * stride);
    for (const bool transposed_a : {false, true})
        for (const bool transposed_b : {false, true}) {
            out.grow(stride * stride);
            upload(std::span<const float>(host_a), out.data(), stream, "out");
            product.multiply(rows, columns, inner, 2, {a.data(), stride, transposed_a},
                             {b.data(), stride, transposed_b}, 0.5F, out.data(), stride, stream);
            const std::vector<float> found = result(stride * stride);
            for (std::int64_t r = 0; r < stride; ++r)
                for (std::int64_t c = 0; c < stride; ++c) {
                    const auto at = static_cast<std::size_t>(r * stride + c);
                    double expected = host_a[at];
                    if (r < rows && c < columns) {
                        expected /= 2;
                        for (std::int64_t i = 0; i < inner; ++i)
                            expected += 2.0 *
                                        host_a[static_cast<std::size_t>(transposed_a ? i * stride + r
                                                                                     : r * stride + i)] *
                                        host_b[static_cast<std::size_t>(transposed_b ? c * stride + i
                                                                                     : i * stride + c)];
                    }
                    EXPECT_NEAR(found[at], expected, 1e-5);
                }
        }
}

// What is lost is what docs say: below the bound, and not nothing.
TEST_F(CublasLtOnCpu, Tf32RoundsItsOperands) {
    constexpr std::int64_t n = 64;
    fill(n, n);
    out.grow(1);
    product.multiply(1, 1, n, 1, {a.data(), n}, {b.data(), n, true}, 0, out.data(), 1, stream, Format::tf32);
    double exact = 0, norms[2] = {};
    for (std::size_t i = 0; i < n; ++i) {
        exact += static_cast<double>(host_a[i]) * host_b[i];
        norms[0] += host_a[i] * host_a[i];
        norms[1] += host_b[i] * host_b[i];
    }
    const double error = std::abs(result(1)[0] - exact);
    EXPECT_LT(error, 0x1p-9 * std::sqrt(norms[0] * norms[1]));
    EXPECT_GT(error, 1e-6);
}

TEST_F(CublasLtOnCpu, AProductWithoutAnAlgorithmSaysWhichDoesWithout) {
    fill(9, 9);
    out.grow(9);
    const auto said = [&](Format format) -> std::string {
        try {
            product.multiply(3, 3, 3, 1, {a.data(), 3}, {b.data(), 3}, 0, out.data(), 3, stream, format);
        } catch (const RunError& error) {
            return error.what();
        }
        return "";
    };
    cuda_on_cpu::set_algorithms(false);
    EXPECT_EQ(said(Format::tf32),
              "cuBLASLt has no algorithm for a product of 3 x 3 x 3 in tf32; run.encoder: float32 needs none "
              "of these");
    EXPECT_EQ(said(Format::float32), "cuBLASLt has no algorithm for a product of 3 x 3 x 3 in float32");
    cuda_on_cpu::set_algorithms(true);
    EXPECT_EQ(said(Format::tf32), "");
}

struct RawProduct {
    cublasLtHandle_t handle = nullptr;
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulHeuristicResult_t best{};

    RawProduct() {
        cublasLtCreate(&handle);
        cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
        cublasLtMatrixLayoutCreate(&a, CUDA_R_32F, 8, 8, 8);
        cublasLtMatrixLayoutCreate(&b, CUDA_R_32F, 8, 8, 8);
        cublasLtMatrixLayoutCreate(&c, CUDA_R_32F, 8, 8, 8);
        cublasLtMatmulPreferenceCreate(&preference);
    }
    ~RawProduct() {
        cublasLtMatmulPreferenceDestroy(preference);
        for (const cublasLtMatrixLayout_t m : {a, b, c}) cublasLtMatrixLayoutDestroy(m);
        cublasLtMatmulDescDestroy(desc);
        cublasLtDestroy(handle);
    }
    cublasStatus_t choose() {
        int found = 0;
        return cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, c, c, preference, 1, &best, &found);
    }
    cublasStatus_t run(const float* of_a, const float* of_b, float* of_c, cudaStream_t stream) {
        const float one = 1, zero = 0;
        return cublasLtMatmul(handle, desc, &one, of_a, a, of_b, b, &zero, of_c, c, of_c, c, &best.algo,
                              nullptr, 0, stream);
    }
};

TEST_F(CublasLtOnCpu, RefusesWhatTheLibraryRefuses) {
    fill(100, 100);
    out.grow(64);
    RawProduct raw;
    ASSERT_EQ(raw.choose(), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(raw.run(a.data(), b.data(), out.data(), stream), CUBLAS_STATUS_SUCCESS);
    // An algorithm chosen for addresses that are multiples of 256.
    EXPECT_EQ(raw.run(a.data() + 1, b.data(), out.data(), stream), CUBLAS_STATUS_INVALID_VALUE);
    EXPECT_DEATH(raw.run(a.data(), b.data(), a.data() + 64, stream),
                 "matrix C of 8 x 8.* is not in one live allocation");
    // Another shape than the algorithm's; layouts that do not fit.
    cublasLtMatrixLayoutDestroy(raw.a);
    cublasLtMatrixLayoutCreate(&raw.a, CUDA_R_32F, 8, 8, 9);
    EXPECT_EQ(raw.run(a.data(), b.data(), out.data(), stream), CUBLAS_STATUS_INVALID_VALUE);
    cublasLtMatrixLayoutDestroy(raw.a);
    cublasLtMatrixLayoutCreate(&raw.a, CUDA_R_32F, 8, 8, 7);
    EXPECT_EQ(raw.choose(), CUBLAS_STATUS_INVALID_VALUE);
    cublasLtMatrixLayoutDestroy(raw.a);
    cublasLtMatrixLayoutCreate(&raw.a, CUDA_R_32F, 8, 7, 8);
    EXPECT_EQ(raw.choose(), CUBLAS_STATUS_INVALID_VALUE);
    cublasLtMatrixLayoutDestroy(raw.a);
    cublasLtMatrixLayoutCreate(&raw.a, CUDA_R_16BF, 8, 8, 8);
    EXPECT_EQ(raw.choose(), CUBLAS_STATUS_NOT_SUPPORTED);
    const std::uint64_t bytes = 1 << 20;
    EXPECT_EQ(cublasLtMatmulPreferenceSetAttribute(raw.preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                   &bytes, 4),
              CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtOnCpu, RefusesAWorkspaceThatIsTooSmall) {
    fill(64, 64);
    out.grow(64);
    RawProduct raw;
    const std::uint64_t bytes = 1 << 20;
    ASSERT_EQ(cublasLtMatmulPreferenceSetAttribute(raw.preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                   &bytes, sizeof bytes),
              CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(raw.choose(), CUBLAS_STATUS_SUCCESS);
    EXPECT_GT(raw.best.workspaceSize, 0U);
    EXPECT_EQ(raw.run(a.data(), b.data(), out.data(), stream), CUBLAS_STATUS_INVALID_VALUE);
}

TEST_F(CublasLtOnCpu, FreedOperandsAreReported) {
    fill(64, 64);
    out.grow(64);
    void* p = nullptr;
    ASSERT_EQ(cudaMalloc(&p, 256), cudaSuccess);
    ASSERT_EQ(cudaFree(p), cudaSuccess);
    EXPECT_DEATH(product.multiply(8, 8, 8, 1, {static_cast<const float*>(p), 8}, {b.data(), 8}, 0, out.data(),
                                  8, stream),
                 "matrix B of 8 x 8.* is not in one live allocation");
}

}  // namespace
}  // namespace strata::device::cuda
