// The encoder's rows, what the product takes for rows and weights, and how far that is off (encode.cu).

#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"
#include "device/cuda/parcel.h"

namespace strata::device {
namespace cuda {

// out = x - b, or x where b is null; a warp to a row. With `half`: the row in bfloat16. Reads 4 n bytes a row
// twice, writes 4 n (6 n).
__global__ void center_rows(const float* __restrict__ x, const float* __restrict__ b, std::int64_t rows,
                            std::int64_t n, float* __restrict__ out) {
    const std::int64_t row = global_warp();
    if (row >= rows) return;
    for (std::int64_t c = lane(); c < n; c += 32)
        out[row * n + c] = b == nullptr ? x[row * n + c] : x[row * n + c] - b[c];
}

// What the product takes for a vector: |v - v~|, |v~| and |v|, a warp to a vector of n. `half`: v~ in
// bfloat16, which is written; null: v~ = v. Reads 4 n bytes, writes 2 n.
struct Norms {
    float off, taken, own;
};
__device__ inline Norms round_vector(const float* __restrict__ v, std::int64_t n,
                                     __nv_bfloat16* __restrict__ half) {
    float off = 0, taken = 0, own = 0;
    for (std::int64_t i = lane(); i < n; i += 32) {
        const float value = v[i];
        float as = value;
        if (half != nullptr) {
            const __nv_bfloat16 rounded = __float2bfloat16_rn(value);
            half[i] = rounded;
            as = __bfloat162float(rounded);
        }
        off = fmaf(value - as, value - as, off);
        taken = fmaf(as, as, taken);
        own = fmaf(value, value, own);
    }
    // The sums' own rounding.
    const float more = 1 + (static_cast<float>(n) / 32 + 16) * unit;
    return {sqrtf(fold(off)) * more, sqrtf(fold(taken)) * more, sqrtf(fold(own)) * more};
}

__global__ void bound_rows(const float* __restrict__ xc, std::int64_t rows, std::int64_t n,
                           __nv_bfloat16* __restrict__ half, ErrorOfRow* errors) {
    const std::int64_t row = global_warp();
    if (row >= rows) return;
    const Norms norms = round_vector(xc + row * n, n, half == nullptr ? nullptr : half + row * n);
    if (lane() == 0) errors[row] = {norms.off, norms.taken};
}

// `lost`: of the product of the norms, by sums (and by TF32).
__global__ void bound_latents(const float* __restrict__ w, std::int64_t latents, std::int64_t n, float lost,
                              __nv_bfloat16* __restrict__ half, ErrorOfLatent* errors) {
    const std::int64_t j = global_warp();
    if (j >= latents) return;
    const Norms norms = round_vector(w + j * n, n, half == nullptr ? nullptr : half + j * n);
    if (lane() == 0)
        errors[j] = {norms.own, norms.off + lost * (norms.own > norms.taken ? norms.own : norms.taken)};
}

// Rows [rows, n] spread evenly over the batch.
__global__ void take_sample(const float* xc, std::int64_t batch_rows, std::int64_t rows, std::int64_t n,
                            float* out) {
    const std::int64_t r = global_warp();
    if (r >= rows) return;
    const float* from = xc + r * batch_rows / rows * n;
    for (std::int64_t c = lane(); c < n; c += 32) out[r * n + c] = from[c];
}

// Counts of positive z by their upper 11 bits below the sign, first in shared memory (8 KiB), then in
// `counts`.
__global__ void count_values(const float* tile, std::int64_t rows, std::int64_t columns, const float* bias,
                             unsigned long long* counts) {
    auto* bins = reinterpret_cast<unsigned*>(strata_shared);
    for (unsigned i = threadIdx.x; i < 2048; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t i = global_thread(); i < rows * columns; i += step) {
        const float z = tile[i] + bias[i % columns];
        if (z > 0) atomicAdd(&bins[__float_as_uint(z) >> 20], 1U);
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < 2048; i += blockDim.x)
        if (bins[i] != 0) atomicAdd(&counts[i], static_cast<unsigned long long>(bins[i]));
}

}  // namespace cuda

using namespace cuda;

// What the SAEs of a stream share.
void CudaDevice::take_batch(const Rows& rows) {
    if (rows.number != 0 && rows.number == row_number_ && has_output_ == holds_output_) return;
    row_number_ = rows.number;
    holds_output_ = has_output_;
    if (rows.parcel != nullptr) {
        if (has_output_) output_.grow(capacity_ * n_);
        take_parcel(*rows.parcel, input_.data(), output_.data(), stream_);
        return;
    }
    cuda::upload(rows.x, input_, stream_);
    if (has_output_) cuda::upload(rows.target, output_, stream_);
}

void CudaDevice::center(const Rows& rows, const Tensors& sae) {
    rows_ = rows.count;
    has_mask_ = false;
    has_output_ = rows.parcel != nullptr ? !rows.parcel->target().empty() : !rows.target.empty();
    has_target_ = sae.transcoder;
    take_rows(0, rows_);
    const unsigned blocks = blocks_of(rows_, block_warps);
    take_batch(rows);
    launch("center_rows", center_rows, blocks, block_threads, 0, stream_, input_.data(),
           sae.transcoder ? nullptr : sae.b_dec.data(), rows_, n_, centered_.data());
    half_rows_.grow(format_ == Format::bf16 ? capacity_ * n_ : 0);
    launch("bound_rows", bound_rows, blocks, block_threads, 0, stream_, centered_.data(), rows_, n_,
           format_ == Format::bf16 ? half_rows_.data() : nullptr, row_errors_.data());
    if (!has_target_) return;
    target_.grow(capacity_ * n_);
    launch("center_rows", center_rows, blocks, block_threads, 0, stream_, output(), sae.b_dec.data(), rows_,
           n_, target_.data());
    if (sae.skip)
        product_.multiply(rows_, n_, n_, -1, {centered_.data(), n_}, {sae.w_skip.data(), n_}, 1,
                          target_.data(), n_, stream_);
}

// The weights' side of the bound, and their copies in bfloat16. Reads 4 n M bytes, writes 2 n M.
void CudaDevice::bound_errors(const Screen& screen) {
    const auto n = static_cast<float>(n_);
    const float lost = format_ == Format::float32 ? (2.5F * n + 12) * unit
                       : format_ == Format::tf32  ? (4 * n + 64) * unit + 0x1.02p-9F
                                                  : (4 * n + 64) * unit;
    latent_errors_.grow(screen.latents);
    half_weights_.grow(format_ == Format::bf16 ? screen.latents * n_ : 0);
    launch("bound_latents", bound_latents, blocks_of(screen.latents, block_warps), block_threads, 0, stream_,
           screen.w_enc, screen.latents, n_, lost, format_ == Format::bf16 ? half_weights_.data() : nullptr,
           latent_errors_.data());
}

void CudaDevice::pre_activation_histogram(const Tensors& sae, std::int64_t rows,
                                          std::span<std::uint64_t> counts) {
    rows = std::min(rows, rows_);
    counters_.grow(std::ssize(counts));
    fill_zero(counters_.data(), std::ssize(counts), stream_, "counters");
    const float* sample = centered_.data();
    product_tile_.grow(std::min(tile_.rows, capacity_) * std::min(tile_.latents, sae.width));
    if (rows < rows_) {
        sample_.grow(rows * n_);
        launch("take_sample", take_sample, blocks_of(rows, block_warps), block_threads, 0, stream_, sample,
               rows_, rows, n_, sample_.data());
        sample = sample_.data();
    }
    const std::int64_t tile_rows = std::min(tile_.rows, capacity_),
                       latents = std::min(tile_.latents, sae.width);
    for (std::int64_t first = 0; first < rows; first += tile_rows)
        for (std::int64_t column = 0; column < sae.width; column += latents) {
            const std::int64_t count = std::min(tile_rows, rows - first),
                               columns = std::min(latents, sae.width - column);
            product_.multiply(count, columns, n_, 1, {sample + first * n_, n_},
                              {sae.w_enc.data() + column * n_, n_, true}, 0, product_tile_.data(), columns,
                              stream_);
            launch("count_values", count_values, std::min(blocks_of(count * columns, 4096), 1024U),
                   block_threads, 2048 * sizeof(unsigned), stream_, product_tile_.data(), count, columns,
                   sae.b_enc.data() + column, counters_.data());
        }
    download_counts(counts);
}

}  // namespace strata::device
