// Decode and backprop, a block to a row: the row's residual stays in shared memory between the two.

#include <cmath>

#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"

namespace strata::device {
namespace cuda {

struct Decoding {
    PairsView pairs;
    float* gradient;  // null: not wanted
    const float* w_dec;
    const float* start;   // [B, n]; the residual begins with it
    float sign;           // times this
    float* residual;      // [groups, B, n], of all rows; null: not wanted
    std::int64_t stride;  // elements of a group's residuals
    const float* output;  // [B, n] y
    double* row_sums;     // [B, 7]
    std::int64_t first_row, n;
    float gradient_scale;
    Groups groups;
};

// Adds value_e d_e of the entries [from, to), in their order, to the residual in shared memory; a thread to
// `width` columns at a time. Loads of several rows are in flight.
template <int width>
__device__ inline void add_decoder_rows(const Decoding& d, std::uint32_t from, std::uint32_t to,
                                        float* residual) {
    using V = Columns<width>;
    for (std::int64_t c = width * threadIdx.x; c < d.n; c += width * blockDim.x) {
        V sum = V::load(residual + c);
#pragma unroll 4
        for (std::uint32_t e = from; e < to; ++e)
            sum.add(d.pairs.value[e],
                    V::load(d.w_dec + static_cast<std::int64_t>(d.pairs.latent[e]) * d.n + c));
        sum.store(residual + c);
    }
}

// 8 n bytes of decoder rows a code (the second time from L2, as a rule), 4 n of residuals a group; 4 n
// operations a code. Shared memory: 4 n bytes and 32.
__global__ void decode_rows(Decoding d) {
    auto* scratch = reinterpret_cast<double*>(strata_shared);  // [warps]
    auto* residual = reinterpret_cast<float*>(scratch + block_warps);
    const std::int64_t row = d.first_row + blockIdx.x, n = d.n;
    const std::uint32_t begin = d.pairs.begin[row], end = d.pairs.begin[row + 1];
    const std::int64_t own = blockIdx.x * n;  // of the rows of the range
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) residual[c] = d.sign * d.start[own + c];
    __syncthreads();

    // residual^(g), group by group: each goes on from the one before it.
    const int groups = d.groups.count;
    float squared_error = 0;
    double prefix_error = 0;
    std::uint32_t at = begin;
    for (int g = 0; g < groups; ++g) {
        const std::uint32_t first = at;
        if (g + 1 == groups)
            at = end;
        else
            while (at < end && d.pairs.latent[at] < d.groups.end[g]) ++at;
        if (n % 4 == 0)
            add_decoder_rows<4>(d, first, at, residual);
        else
            add_decoder_rows<1>(d, first, at, residual);
        __syncthreads();
        if (d.residual != nullptr)
            for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x)
                d.residual[g * d.stride + own + c] = residual[c];
        squared_error = warp_dot(residual, residual, n);
        prefix_error += squared_error;
        __syncthreads();
    }

    double l1 = 0;
    float yy = 0, yh = 0, hh = 0;
    for (std::uint32_t e = begin + threadIdx.x; e < end; e += blockDim.x) l1 += d.pairs.value[e];
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) {
        const float y = d.output[own + c], x_hat = y + residual[c];
        yy = fmaf(y, y, yy);
        yh = fmaf(y, x_hat, yh);
        hh = fmaf(x_hat, x_hat, hh);
    }
    l1 = block_sum(l1, scratch);
    const double aligned = block_sum(static_cast<double>(yh), scratch);
    const double y_square = block_sum(static_cast<double>(yy), scratch);
    const double x_hat_square = block_sum(static_cast<double>(hh), scratch);
    if (threadIdx.x == 0)
        put_row_sums(d.row_sums + row * row_numbers, squared_error, prefix_error, l1, y_square, aligned,
                     x_hat_square, end - begin);
    if (d.gradient == nullptr && groups == 1) return;

    // R^(g), from the last group back, and dL/df of the group's codes, a warp to a code.
    for (int g = groups; g-- > 0;) {
        if (g + 1 < groups) {
            __syncthreads();
            for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) {
                float& stored = d.residual[g * d.stride + own + c];
                residual[c] = stored = stored + residual[c];
            }
            __syncthreads();
        }
        if (d.gradient == nullptr) continue;
        std::uint32_t first = at;
        if (g == 0)
            first = begin;
        else
            while (first > begin && d.pairs.latent[first - 1] >= d.groups.end[g - 1]) --first;
        for (std::uint32_t e = first + warp(); e < at; e += block_warps) {
            const float dot =
                warp_dot(residual, d.w_dec + static_cast<std::int64_t>(d.pairs.latent[e]) * n, n);
            if (lane() == 0) d.gradient[e] = d.gradient_scale * dot;
        }
        at = first;
    }
}

// The sums of the rows' numbers; a warp to each of the 7, in a fixed order.
__global__ void add_row_sums(const double* row_sums, std::int64_t rows, double* sums) {
    double sum = 0;
#pragma unroll 8  // loads under way, of one block
    for (std::int64_t r = lane(); r < rows; r += 32) sum += row_sums[r * row_numbers + warp()];
    sum = fold(sum);
    if (lane() == 0) sums[warp()] = sum;
}

struct Residuals {
    const float* residual;  // [groups, rows of a range, n]
    std::int64_t first_row, stride, n;
    Groups groups;
    __device__ const float* of(std::int64_t row, std::uint32_t latent) const {
        int g = 0;
        while (latent >= groups.end[g]) ++g;
        return residual + g * stride + (row - first_row) * n;
    }
};

// dL/df of other codes against the main codes' residual; a warp to a code. 8 n bytes a code.
__global__ void __launch_bounds__(block_threads, most_blocks)
    backprop_pairs(PairsView pairs, std::int64_t last_row, Residuals residuals, const float* w_dec,
                   float scale, float* gradient) {
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * block_warps;
    const std::int64_t end = pairs.begin[last_row];
    for (std::int64_t e = pairs.begin[residuals.first_row] + global_warp(); e < end; e += step) {
        const std::uint32_t j = pairs.latent[e];
        const float dot = warp_dot(residuals.of(pairs.row[e], j),
                                   w_dec + static_cast<std::int64_t>(j) * residuals.n, residuals.n);
        if (lane() == 0) gradient[e] = scale * dot;
    }
}

// See Device::observe(); a warp to a code. Codes that are not masked are main codes, whose gradient is known:
// it is found by bisection. 8 n bytes a masked code.
__global__ void __launch_bounds__(block_threads, most_blocks)
    observe_pairs(PairsView pairs, PairsView main, const float* main_gradient, float main_scale,
                  std::int64_t last_row, DeviceMask mask, Residuals residuals, const float* w_dec,
                  const float* square_weight, float* gradient, unsigned long long* left_out) {
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * block_warps;
    const std::int64_t end = pairs.begin[last_row];
    for (std::int64_t e = pairs.begin[residuals.first_row] + global_warp(); e < end; e += step) {
        const std::uint32_t j = pairs.latent[e], row = pairs.row[e];
        const float f = pairs.value[e], square = square_weight[j] * f * f;
        if (mask(row, j)) {
            const float dot = warp_dot(residuals.of(row, j),
                                       w_dec + static_cast<std::int64_t>(j) * residuals.n, residuals.n);
            if (lane() == 0) {
                gradient[e] = change_without(f, dot, 1, square, true);
                atomicAdd(left_out, 1ULL);
            }
            continue;
        }
        std::uint32_t low = main.begin[row], high = main.begin[row + 1];
        while (low + 1 < high) {
            const std::uint32_t middle = (low + high) / 2;
            if (main.latent[middle] <= j)
                low = middle;
            else
                high = middle;
        }
        if (lane() == 0) gradient[e] = change_without(f, main_gradient[low], main_scale, square, false);
    }
}

__global__ void weigh_latents(const float* w_dec, std::int64_t width, std::int64_t n, bool unit_rows,
                              Groups groups, float* weights) {
    const std::int64_t j = global_warp();
    if (j >= width) return;
    int g = 0;
    while (j >= groups.end[g]) ++g;
    float square = 1;
    if (!unit_rows) {
        const float norm = sqrtf(warp_dot(w_dec + j * n, w_dec + j * n, n));
        square = norm * norm;
    }
    if (lane() == 0) weights[j] = square * static_cast<float>(groups.count - g);
}

__global__ void take_norms(const double* row_sums, std::int64_t rows, float* norms) {
    const std::int64_t r = global_thread();
    if (r < rows) norms[r] = static_cast<float>(sqrt(row_sums[r * row_numbers]));
}

}  // namespace cuda

using namespace cuda;

void CudaDevice::decode(CodeSet set, const Tensors& sae, float gradient_scale) {
    require_range();
    CodeTable& codes = table(set);
    codes.gradient_scale = gradient_scale;
    codes.gradient.grow(codes.pairs.most);
    // Only main codes have prefixes, and the gate's residual is for its gradient alone.
    Groups groups = groups_of(sae);
    if (set != CodeSet::main) groups = {1, {sae.width}};
    const std::int64_t stride = room_ * n_;
    if (set != CodeSet::gate) codes.residual.grow(groups.count * stride, groups.count * stride);
    DeviceArray<double>& row_sums = sums_of_rows(set).by_row;
    row_sums.grow(row_numbers * capacity_);
    const bool auxiliary = set == CodeSet::auxiliary;
    const Decoding decoding{view_of(codes.pairs),
                            gradient_scale == 0 ? nullptr : codes.gradient.data(),
                            sae.w_dec.data(),
                            auxiliary ? residuals(sae.groups() - 1) : target(first_row_),
                            auxiliary ? 1.0F : -1.0F,
                            set == CodeSet::gate ? nullptr : row_of(codes.residual, first_row_),
                            stride,
                            output(first_row_),
                            row_sums.data(),
                            first_row_,
                            n_,
                            gradient_scale,
                            groups};
    launch("decode_rows", decode_rows, static_cast<unsigned>(last_row_ - first_row_), block_threads,
           block_warps * sizeof(double) + static_cast<std::size_t>(n_) * sizeof(float), stream_, decoding);
    if (last_row_ == rows_) send_sums_of_rows(set);
}

void CudaDevice::send_sums_of_rows(CodeSet set) {
    SumsOfRows& sums = sums_of_rows(set);
    sums.all.grow(row_numbers);
    launch("add_row_sums", add_row_sums, 1, row_numbers * 32, 0, stream_, sums.by_row.data(), rows_,
           sums.all.data());
    sums.arriving.send(sums.all.data(), row_numbers, stream_);
}

DecodeSums CudaDevice::decode_sums(CodeSet set) {
    const std::span<const double> sums = sums_of_rows(set).arriving.get(stream_);
    return {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], static_cast<std::uint64_t>(sums[6])};
}

void CudaDevice::backprop(CodeSet set, const Tensors& sae) {
    CodeTable& codes = table(set);
    const CodeTable& main = table(CodeSet::main);
    launch("backprop_pairs", backprop_pairs, std::min(blocks_of(codes.pairs.most, block_warps), 65536U),
           block_threads, 0, stream_, view_of(codes.pairs), last_row_,
           Residuals{residuals(0), first_row_, room_ * n_, n_, groups_of(sae)}, sae.w_dec.data(),
           main.gradient_scale, codes.gradient.data());
}

void CudaDevice::weigh_squares(const Tensors& sae) {
    square_weight_.grow(sae.width);
    launch("weigh_latents", weigh_latents, blocks_of(sae.width, block_warps), block_threads, 0, stream_,
           sae.w_dec.data(), sae.width, n_, sae.unit_rows, groups_of(sae), square_weight_.data());
}

std::uint64_t CudaDevice::observe(const Tensors& sae) {
    CodeTable& codes = table(CodeSet::observed);
    const CodeTable& main = table(CodeSet::main);
    weigh_squares(sae);
    fill_zero(counters_.data(), 1, stream_, "counters");
    launch("observe_pairs", observe_pairs, std::min(blocks_of(codes.pairs.most, block_warps), 65536U),
           block_threads, 0, stream_, view_of(codes.pairs), view_of(main.pairs), main.gradient.data(),
           main.gradient_scale, last_row_, device_mask(),
           Residuals{residuals(0), first_row_, room_ * n_, n_, groups_of(sae)}, sae.w_dec.data(),
           square_weight_.data(), codes.gradient.data(), counters_.data());
    std::uint64_t left_out = 0;
    download_counts({&left_out, 1});
    return left_out;
}

void CudaDevice::residual_norms(std::vector<float>& norms) {
    norms.resize(static_cast<std::size_t>(rows_));
    sample_.grow(rows_);
    launch("take_norms", take_norms, blocks_of(rows_, block_threads), block_threads, 0, stream_,
           sums_of_rows(CodeSet::main).by_row.data(), rows_, sample_.data());
    cuda::download(sample_.data(), std::span(norms), stream_, "the residuals' norms");
}

}  // namespace strata::device
