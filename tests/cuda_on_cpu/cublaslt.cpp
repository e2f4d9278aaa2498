// cuBLASLt's matrix product by oneDNN's.

#include "cublasLt.h"

#include <dnnl.h>
#include <omp.h>

#include <bit>
#include <vector>

#include "cuda_bf16.h"
#include "cuda_on_cpu.h"
#include "state.h"

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
    cublasComputeType_t compute;
    std::int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
};
struct cublasLtMatrixLayoutOpaque_t {
    cudaDataType_t type;
    std::uint64_t rows, columns;
    std::int64_t leading;
};
struct cublasLtMatmulPreferenceOpaque_t {
    std::uint64_t workspace = 0;
    std::uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};

namespace {

using cuda_on_cpu::die;

constexpr std::size_t workspace_of_algorithm = 4096;
bool finds_algorithms = true;

std::size_t size_of(cudaDataType_t type) {
    return type == CUDA_R_16BF ? 2 : 4;
}

// Bytes from the first element to the last one.
std::size_t extent(const cublasLtMatrixLayoutOpaque_t& m) {
    return ((m.columns - 1) * static_cast<std::size_t>(m.leading) + m.rows) * size_of(m.type);
}

std::uint64_t rows_after(const cublasLtMatrixLayoutOpaque_t& m, std::int32_t transpose) {
    return transpose == CUBLAS_OP_N ? m.rows : m.columns;
}
std::uint64_t columns_after(const cublasLtMatrixLayoutOpaque_t& m, std::int32_t transpose) {
    return transpose == CUBLAS_OP_N ? m.columns : m.rows;
}

cublasStatus_t check_shapes(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                            cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
    for (const cublasLtMatrixLayout_t m : {a, b, c, d})
        if (m == nullptr || m->rows == 0 || m->columns == 0 ||
            m->leading < static_cast<std::int64_t>(m->rows))
            return CUBLAS_STATUS_INVALID_VALUE;
    const std::uint64_t m = rows_after(*a, desc->transpose_a), k = columns_after(*a, desc->transpose_a),
                        n = columns_after(*b, desc->transpose_b);
    if (rows_after(*b, desc->transpose_b) != k || d->rows != m || d->columns != n || c->rows != m ||
        c->columns != n)
        return CUBLAS_STATUS_INVALID_VALUE;
    const bool halves = a->type == CUDA_R_16BF;
    if (a->type != b->type || c->type != CUDA_R_32F || d->type != CUDA_R_32F ||
        (halves && desc->compute != CUBLAS_COMPUTE_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

std::uint64_t hash_of(cublasLtMatmulDesc_t desc, std::initializer_list<cublasLtMatrixLayout_t> layouts) {
    std::uint64_t hash = static_cast<std::uint64_t>(desc->compute) * 4 +
                         static_cast<std::uint64_t>(desc->transpose_a * 2 + desc->transpose_b);
    for (const cublasLtMatrixLayout_t m : layouts)
        for (const std::uint64_t number : {static_cast<std::uint64_t>(m->type), m->rows, m->columns,
                                           static_cast<std::uint64_t>(m->leading)})
            hash = (hash ^ number) * 1099511628211U;
    return hash;
}

// The operand as floats, rounded as the unit rounds it: TF32 keeps 10 bits of the mantissa.
std::vector<float> operand(const void* from, const cublasLtMatrixLayoutOpaque_t& m, bool tf32) {
    std::vector<float> to(extent(m) / size_of(m.type));
    for (std::size_t i = 0; i < to.size(); ++i) {
        if (m.type == CUDA_R_16BF) {
            to[i] = __bfloat162float(static_cast<const __nv_bfloat16*>(from)[i]);
            continue;
        }
        const float value = static_cast<const float*>(from)[i];
        to[i] = tf32 ? std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) & 0xffffe000U) : value;
    }
    return to;
}

}  // namespace

void cuda_on_cpu::set_algorithms(bool found) {
    finds_algorithms = found;
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS:
            return "CUBLAS_STATUS_SUCCESS";
        case CUBLAS_STATUS_NOT_INITIALIZED:
            return "CUBLAS_STATUS_NOT_INITIALIZED";
        case CUBLAS_STATUS_INVALID_VALUE:
            return "CUBLAS_STATUS_INVALID_VALUE";
        case CUBLAS_STATUS_INTERNAL_ERROR:
            return "CUBLAS_STATUS_INTERNAL_ERROR";
        case CUBLAS_STATUS_NOT_SUPPORTED:
            return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return "unknown";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    *handle = new cublasLtContext;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *desc = new cublasLtMatmulDescOpaque_t{compute};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              std::size_t bytes) {
    if (bytes != sizeof(std::int32_t)) return CUBLAS_STATUS_INVALID_VALUE;
    const std::int32_t operation = *static_cast<const std::int32_t*>(value);
    (attribute == CUBLASLT_MATMUL_DESC_TRANSA ? desc->transpose_a : desc->transpose_b) = operation;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          std::uint64_t rows, std::uint64_t columns, std::int64_t leading) {
    *layout = new cublasLtMatrixLayoutOpaque_t{type, rows, columns, leading};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    *preference = new cublasLtMatmulPreferenceOpaque_t;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, std::size_t bytes) {
    const bool workspace = attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
    if (bytes != (workspace ? sizeof(std::uint64_t) : sizeof(std::uint32_t)))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (workspace)
        preference->workspace = *static_cast<const std::uint64_t*>(value);
    else
        preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES] =
            *static_cast<const std::uint32_t*>(value);
    return CUBLAS_STATUS_SUCCESS;
}

// An algorithm is for these shapes and alignments, and uses its workspace.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
    *found = 0;
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (requested < 1) return CUBLAS_STATUS_INVALID_VALUE;
    if (cuda_on_cpu::refused_in_capture()) return CUBLAS_STATUS_INTERNAL_ERROR;  // as that of CUDA 13.3
    const cublasStatus_t status = check_shapes(desc, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (!finds_algorithms) return CUBLAS_STATUS_NOT_SUPPORTED;
    results[0] = {};
    results[0].algo.data[0] = hash_of(desc, {a, b, c, d});
    for (int i = 0; i < 4; ++i) results[0].algo.data[1 + i] = preference->alignment[i];
    results[0].workspaceSize = preference->workspace >= workspace_of_algorithm ? workspace_of_algorithm : 0;
    results[0].algo.data[5] = results[0].workspaceSize;
    results[0].state = CUBLAS_STATUS_SUCCESS;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, std::size_t workspace_bytes,
                              cudaStream_t stream) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    const cublasStatus_t status = check_shapes(desc, a_layout, b_layout, c_layout, d_layout);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (algo == nullptr || algo->data[0] != hash_of(desc, {a_layout, b_layout, c_layout, d_layout}))
        return CUBLAS_STATUS_INVALID_VALUE;
    const void* pointers[] = {a, b, c, d};
    const cublasLtMatrixLayout_t layouts[] = {a_layout, b_layout, c_layout, d_layout};
    for (int i = 0; i < 4; ++i) {
        if (reinterpret_cast<std::uintptr_t>(pointers[i]) % algo->data[1 + i] != 0 ||
            reinterpret_cast<std::uintptr_t>(pointers[i]) % size_of(layouts[i]->type) != 0)
            return CUBLAS_STATUS_INVALID_VALUE;
        if (!cuda_on_cpu::in_device_memory(pointers[i], extent(*layouts[i])))
            die("cublasLtMatmul: matrix %c of %lu x %lu, leading dimension %ld, is not in one live "
                "allocation",
                "ABCD"[i], layouts[i] -> rows, layouts[i] -> columns, layouts[i] -> leading);
    }
    if (c != d) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (workspace_bytes < algo->data[5]) return CUBLAS_STATUS_INVALID_VALUE;
    if (algo->data[5] > 0 && (reinterpret_cast<std::uintptr_t>(workspace) % 256 != 0 ||
                              !cuda_on_cpu::in_device_memory(workspace, workspace_bytes)))
        return CUBLAS_STATUS_INVALID_VALUE;
    const bool tf32 = desc->compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    const cudaError_t error = cuda_on_cpu::enqueue(
        stream, [=, desc = *desc, la = *a_layout, lb = *b_layout, ld = *d_layout,
                 factor = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta)] {
            const cuda_on_cpu::Access access;
            const std::vector<float> left = operand(a, la, tf32), right = operand(b, lb, tf32);
            // Column-major C = A B is row-major C^T = B^T A^T.
            const auto inner = static_cast<dnnl_dim_t>(columns_after(la, desc.transpose_a));
            const int threads = omp_get_max_threads();
            omp_set_num_threads(1);  // products here are too small for more
            if (dnnl_sgemm(desc.transpose_b == CUBLAS_OP_N ? 'N' : 'T',
                           desc.transpose_a == CUBLAS_OP_N ? 'N' : 'T', static_cast<dnnl_dim_t>(ld.columns),
                           static_cast<dnnl_dim_t>(ld.rows), inner, factor, right.data(), lb.leading,
                           left.data(), la.leading, keep, static_cast<float*>(d), ld.leading) != dnnl_success)
                die("dnnl_sgemm failed");
            omp_set_num_threads(threads);
        });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
