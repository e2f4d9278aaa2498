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

// Rows [rows, n] spread evenly over the batch, as far as they are among [first, last), which `xc` holds.
__global__ void take_sample(const float* xc, std::int64_t first, std::int64_t last, std::int64_t batch_rows,
                            std::int64_t rows, std::int64_t n, float* out) {
    const std::int64_t r = global_warp();
    const std::int64_t from = r * batch_rows / rows;
    if (r >= rows || from < first || from >= last) return;
    for (std::int64_t c = lane(); c < n; c += 32) out[r * n + c] = xc[(from - first) * n + c];
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

void CudaDevice::center(const Rows& rows, const Tensors& sae) {
    const bool same = rows.number != 0 && rows.number == batch_.number;
    const bool had_output = has_output_;
    batch_ = rows;
    rows_ = rows.count;
    has_mask_ = false;
    has_output_ = rows.parcel != nullptr ? !rows.parcel->target().empty() : !rows.target.empty();
    has_target_ = sae.transcoder;
    w_skip_ = sae.skip ? sae.w_skip.data() : nullptr;
    // A copy: rows may be asked for when the optimiser has been here.
    b_dec_.grow(n_);
    const std::size_t bytes = static_cast<std::size_t>(n_) * sizeof(float);
    check(cudaMemcpyAsync(b_dec_.data(), sae.b_dec.data(), bytes, cudaMemcpyDeviceToDevice, stream_),
          "cudaMemcpyAsync on the device", b_dec_.name(), bytes);
    if (!same || had_output != has_output_) loaded_ = {};
    centered_is_made_ = targets_are_made_ = false;
    first_row_ = 0;
    last_row_ = rows_;
    if (rows_ <= room_) hold_with_targets({0, rows_});
}

// x and y of some rows of the batch, which the SAEs of a stream share.
void CudaDevice::load(Slice rows) {
    if (rows.first >= loaded_.first && rows.last <= loaded_.last) return;
    require(rows.last - rows.first <= room_, "no more rows at a time than there is room for");
    loaded_ = rows;
    centered_is_made_ = targets_are_made_ = false;
    if (has_output_) output_.grow(room_ * n_);
    if (batch_.parcel != nullptr) {
        take_parcel(*batch_.parcel, rows, input_.data(), output_.data(), stream_);
        return;
    }
    const auto part = [&](std::span<const float> all) {
        return all.subspan(static_cast<std::size_t>(rows.first * n_),
                           static_cast<std::size_t>((rows.last - rows.first) * n_));
    };
    cuda::upload(part(batch_.x), input_, stream_);
    if (has_output_) cuda::upload(part(batch_.target), output_, stream_);
}

// And xc and its bounds. Reads 8 n bytes a row and writes 6 n.
void CudaDevice::hold(Slice wanted) {
    load(wanted);
    if (centered_is_made_) return;
    centered_is_made_ = true;
    const std::int64_t rows = loaded_.last - loaded_.first;
    const unsigned blocks = blocks_of(rows, block_warps);
    launch("center_rows", center_rows, blocks, block_threads, 0, stream_, input_.data(),
           has_target_ ? nullptr : b_dec_.data(), rows, n_, centered_.data());
    half_rows_.grow(format_ == Format::bf16 ? room_ * n_ : 0);
    launch("bound_rows", bound_rows, blocks, block_threads, 0, stream_, centered_.data(), rows, n_,
           format_ == Format::bf16 ? half_rows_.data() : nullptr, row_errors_.data());
}

// And y - b_dec [- x W_skip].
void CudaDevice::hold_with_targets(Slice wanted) {
    hold(wanted);
    if (!has_target_ || targets_are_made_) return;
    targets_are_made_ = true;
    const std::int64_t rows = loaded_.last - loaded_.first;
    target_.grow(room_ * n_);
    launch("center_rows", center_rows, blocks_of(rows, block_warps), block_threads, 0, stream_,
           (has_output_ ? output_ : input_).data(), b_dec_.data(), rows, n_, target_.data());
    if (w_skip_ != nullptr)
        product_.multiply(rows, n_, n_, -1, {centered_.data(), n_}, {w_skip_, n_}, 1, target_.data(), n_,
                          stream_);
}

void CudaDevice::take_rows(std::int64_t first, std::int64_t last) {
    require((first % range_rows == 0 || first == last) && first <= last && last <= rows_,
            "a range of the batch's rows");
    first_row_ = first;
    last_row_ = last;
    hold_with_targets({first, last});
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
    const std::int64_t tile_rows = std::min(tile_.rows, room_), latents = std::min(tile_.latents, sae.width);
    product_tile_.grow(tile_rows * latents);
    const bool all = rows == rows_;
    if (!all) {
        sample_.grow(rows * n_);
        for (std::int64_t first = 0; first < rows_; first += room_) {
            const Slice held{first, std::min(first + room_, rows_)};
            hold(held);
            launch("take_sample", take_sample, blocks_of(rows, block_warps), block_threads, 0, stream_,
                   row_of(centered_, first), held.first, held.last, rows_, rows, n_, sample_.data());
        }
    }
    for (std::int64_t first = 0; first < rows; first += tile_rows) {
        const std::int64_t count = std::min(tile_rows, rows - first);
        if (all) hold({first, first + count});
        const float* sample = all ? row_of(centered_, first) : sample_.data() + first * n_;
        for (std::int64_t column = 0; column < sae.width; column += latents) {
            const std::int64_t columns = std::min(latents, sae.width - column);
            product_.multiply(count, columns, n_, 1, {sample, n_}, {sae.w_enc.data() + column * n_, n_, true},
                              0, product_tile_.data(), columns, stream_);
            launch("count_values", count_values, std::min(blocks_of(count * columns, 4096), 1024U),
                   block_threads, 2048 * sizeof(unsigned), stream_, product_tile_.data(), count, columns,
                   sae.b_enc.data() + column, counters_.data());
        }
    }
    download_counts(counts);
}

}  // namespace strata::device
