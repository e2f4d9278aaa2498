#include "device/cuda/product.h"

#include "base/error.h"

namespace strata::device::cuda {
namespace {

constexpr std::uint64_t most_workspace = std::uint64_t{32} << 20;  // what is recommended for Hopper

void check(cublasStatus_t status, const char* call, std::int64_t rows, std::int64_t columns,
           std::int64_t inner) {
    if (status != CUBLAS_STATUS_SUCCESS)
        fail("{} for a product of {} x {} x {} failed: {}", call, rows, columns, inner,
             cublasLtGetStatusString(status));
}

// The largest power of two up to 256 that divides the address.
std::uint32_t alignment_of(const void* p) {
    std::uint32_t alignment = 256;
    while (reinterpret_cast<std::uintptr_t>(p) % alignment != 0) alignment /= 2;
    return alignment;
}

template <typename T, auto destroy>
struct Owned {
    T handle = nullptr;
    Owned() = default;
    ~Owned() {
        if (handle != nullptr) destroy(handle);
    }
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    operator T() const { return handle; }
};
using Desc = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

}  // namespace

// In cuBLASLt's terms: column-major, so that a row-major out = a . b is out^T = b^T . a^T.
struct Product::Shape {
    std::int64_t rows, columns, inner;
    std::int64_t stride_a, stride_b, stride_out;
    bool transposed_a, transposed_b;
    Format format;
};

Product::Product(std::int64_t most) : most_(most) {
    check(cublasLtCreate(&handle_), "cublasLtCreate", 0, 0, 0);
}

Product::~Product() {
    cublasLtDestroy(handle_);
}

void Product::multiply(std::int64_t rows, std::int64_t columns, std::int64_t inner, float factor,
                       Operand<float> a, Operand<float> b, float keep, float* out, std::int64_t stride,
                       cudaStream_t stream, Format format) {
    const auto spans_too_much = [&](std::int64_t major, std::int64_t of_one) {
        return major > 1 && major * of_one > most_;
    };
    const auto half_of = [](std::int64_t whole) { return whole > 128 ? whole / 128 * 64 : whole / 2; };
    if (spans_too_much(rows, stride) || (!a.transposed && spans_too_much(rows, a.stride))) {
        const std::int64_t half = half_of(rows);
        multiply(half, columns, inner, factor, a, b, keep, out, stride, stream, format);
        a.data += a.transposed ? half : half * a.stride;
        multiply(rows - half, columns, inner, factor, a, b, keep, out + half * stride, stride, stream,
                 format);
        return;
    }
    if (b.transposed && spans_too_much(columns, b.stride)) {
        const std::int64_t half = half_of(columns);
        multiply(rows, half, inner, factor, a, b, keep, out, stride, stream, format);
        b.data += half * b.stride;
        multiply(rows, columns - half, inner, factor, a, b, keep, out + half, stride, stream, format);
        return;
    }
    if ((a.transposed && spans_too_much(inner, a.stride)) ||
        (!b.transposed && spans_too_much(inner, b.stride))) {
        const std::int64_t half = half_of(inner);
        multiply(rows, columns, half, factor, a, b, keep, out, stride, stream, format);
        a.data += a.transposed ? half * a.stride : half;
        b.data += b.transposed ? half : half * b.stride;
        multiply(rows, columns, inner - half, factor, a, b, 1, out, stride, stream, format);
        return;
    }
    run({rows, columns, inner, a.stride, b.stride, stride, a.transposed, b.transposed, format}, factor,
        a.data, b.data, keep, out, stream);
}

void Product::multiply(std::int64_t rows, std::int64_t columns, std::int64_t inner, float factor,
                       Operand<__nv_bfloat16> a, Operand<__nv_bfloat16> b, float keep, float* out,
                       std::int64_t stride, cudaStream_t stream) {
    run({rows, columns, inner, a.stride, b.stride, stride, a.transposed, b.transposed, Format::bf16}, factor,
        a.data, b.data, keep, out, stream);
}

void Product::run(const Shape& s, float factor, const void* a, const void* b, float keep, float* out,
                  cudaStream_t stream) {
    if (s.rows == 0 || s.columns == 0) return;
    const auto check_here = [&](cublasStatus_t status, const char* call) {
        check(status, call, s.rows, s.columns, s.inner);
    };
    const cudaDataType_t type = s.format == Format::bf16 ? CUDA_R_16BF : CUDA_R_32F;
    Desc desc;
    check_here(cublasLtMatmulDescCreate(
                   &desc.handle, s.format == Format::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                   CUDA_R_32F),
               "cublasLtMatmulDescCreate");
    const auto operation = [&](cublasLtMatmulDescAttributes_t attribute, bool transposed) {
        const std::int32_t value = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
        check_here(cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof value),
                   "cublasLtMatmulDescSetAttribute");
    };
    operation(CUBLASLT_MATMUL_DESC_TRANSA, s.transposed_b);
    operation(CUBLASLT_MATMUL_DESC_TRANSB, s.transposed_a);
    Layout left, right, result;
    const auto layout = [&](Layout& to, cudaDataType_t of, std::int64_t rows, std::int64_t columns,
                            bool transposed, std::int64_t stride) {
        if (transposed) std::swap(rows, columns);
        check_here(cublasLtMatrixLayoutCreate(&to.handle, of, static_cast<std::uint64_t>(rows),
                                              static_cast<std::uint64_t>(columns), stride),
                   "cublasLtMatrixLayoutCreate");
    };
    layout(left, type, s.columns, s.inner, s.transposed_b, s.stride_b);
    layout(right, type, s.inner, s.rows, s.transposed_a, s.stride_a);
    layout(result, CUDA_R_32F, s.columns, s.rows, false, s.stride_out);

    const std::array<std::int64_t, 12> key = {
        s.rows,          s.columns,       s.inner,
        s.stride_a,      s.stride_b,      s.stride_out,
        s.transposed_a,  s.transposed_b,  static_cast<std::int64_t>(s.format),
        alignment_of(a), alignment_of(b), alignment_of(out)};
    auto found = algorithms_.find(key);
    if (found == algorithms_.end()) {
        Preference preference;
        check_here(cublasLtMatmulPreferenceCreate(&preference.handle), "cublasLtMatmulPreferenceCreate");
        const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
            check_here(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
                       "cublasLtMatmulPreferenceSetAttribute");
        };
        prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, most_workspace);
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(b));
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(a));
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(out));
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(out));
        cublasLtMatmulHeuristicResult_t best{};
        int count = 0;
        const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, desc, left, right, result,
                                                                     result, preference, 1, &best, &count);
        const bool none = count == 0 || best.state == CUBLAS_STATUS_NOT_SUPPORTED;
        if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && none))
            fail("cuBLASLt has no algorithm for a product of {} x {} x {} in {}{}", s.rows, s.columns,
                 s.inner, name_of(s.format),
                 s.format == Format::float32 ? "" : "; run.encoder: float32 needs none of these");
        check_here(status, "cublasLtMatmulAlgoGetHeuristic");
        check_here(best.state, "the algorithm that cublasLtMatmulAlgoGetHeuristic found");
        workspace_.grow(static_cast<std::int64_t>(best.workspaceSize));
        found = algorithms_.emplace(key, best.algo).first;
    }
    check_here(cublasLtMatmul(handle_, desc, &factor, b, left, a, right, &keep, out, result, out, result,
                              &found->second, workspace_.data(), workspace_.bytes(), stream),
               "cublasLtMatmul");
}

}  // namespace strata::device::cuda
