// Weight gradients latent by latent through the transposed index: a latent's codes come in order of rows,
// each gradient is written once, and no sum has atomics. The component of the decoder's gradient along d_j is
// known beforehand,
//   d_j . sum_b s f_bj residual_b = sum_b f_bj (dL/df_bj),
// so the projection needs no second pass.

#include <algorithm>

#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"

namespace strata::device {
namespace cuda {

constexpr std::int64_t bucket_bytes = std::int64_t{64} << 20;  // gradients handed on at once
constexpr std::int64_t bias_latents = 512;                     // of a group in the sum of dL/db_enc w

struct SetView {
    const std::uint32_t* begin;  // [M + 1]
    const std::uint32_t* row_of;
    const float* value_of;
    float* gradient_of;
    const float* residual;  // of all groups
    const float* gain;      // null: 1
    const float* shift;     // null: 0
    float scale;
    bool decoder, main;
};
struct Sets {
    int count;
    SetView set[3];
};

struct LatentState {
    double* bias;         // dL/db_enc over the ranges so far
    double* other_along;  // sum of f dL/df of the other sets
    double* along;        // of main
    double* value;        // sum of f of main
    float* b_enc;         // the gradient
    float* multiple;      // of d_j that is taken from the decoder's gradient
    const double* sums;   // [4, M] of main
    const float* shrink;  // null: none
    bool first_rows, unit_rows;
};

// Makes dL/dz of dL/df, and what is summed over a latent's codes; a warp to a latent. 12 bytes a code.
__global__ void finish_latents(Sets sets, LatentState state, std::int64_t width) {
    const std::int64_t j = global_warp();
    if (j >= width) return;
    double bias = 0, other_along = 0;
    for (int s = 0; s < sets.count; ++s) {
        const SetView& set = sets.set[s];
        const float gain = set.gain == nullptr ? 1.0F : set.gain[j];
        const float shift = set.shift == nullptr ? 0.0F : set.shift[j];
        double own = 0, along = 0;
        for (std::uint32_t e = set.begin[j] + lane(); e < set.begin[j + 1]; e += 32) {
            const float g = set.gradient_of[e];
            if (set.decoder && !set.main && state.unit_rows)
                along += static_cast<double>(set.value_of[e]) * g;
            const float dz = gain * g + shift;
            set.gradient_of[e] = dz;
            own += dz;
        }
        bias += fold(own);
        if (set.decoder && !set.main) other_along += fold(along) / set.scale;
    }
    if (lane() != 0) return;
    if (!state.first_rows) {
        bias += state.bias[j];
        other_along += state.other_along[j];
    }
    const double main_along = state.sums[3 * width + j] + (state.first_rows ? 0 : state.along[j]);
    const double value = state.sums[width + j] + (state.first_rows ? 0 : state.value[j]);
    state.bias[j] = bias;
    state.other_along[j] = other_along;
    state.along[j] = main_along;
    state.value[j] = value;
    double multiple = other_along;
    if (state.unit_rows) multiple += main_along;
    if (state.shrink != nullptr) multiple -= state.shrink[j] * value;
    state.b_enc[j] = static_cast<float>(bias);
    state.multiple[j] = static_cast<float>(multiple);
}

struct Gradients {
    const float* xc;
    std::int64_t n, stride;  // stride: elements of a group's residuals
    Groups groups;
    const float* w_dec;  // null: nothing is taken out
    const float* multiple;
    float* w_enc_gradient;
    float* w_dec_gradient;
    bool keep;
    std::int64_t first;  // latent
    double* squares;     // [latents, column blocks]
};

// A block to a latent and 128 or 512 columns; a thread to `width` of them, its codes in their order. Reads 8
// n bytes a code, from L2 as far as rows and residuals stay there, and 4 n of decoder rows; writes 8 n a
// latent.
template <int width>
__global__ void __launch_bounds__(block_threads, most_blocks) make_gradients(Sets sets, Gradients g) {
    using V = Columns<width>;
    auto* scratch = reinterpret_cast<double*>(strata_shared);
    const std::int64_t j = g.first + blockIdx.x;
    const std::int64_t c = width * (static_cast<std::int64_t>(blockIdx.y) * blockDim.x + threadIdx.x);
    double square = 0;
    if (c < g.n) {
        int group = 0;
        while (j >= g.groups.end[group]) ++group;
        const std::int64_t at = j * g.n + c;
        V encoder = g.keep ? V::load(g.w_enc_gradient + at) : V{};
        V decoder = g.keep ? V::load(g.w_dec_gradient + at) : V{};
        for (int s = 0; s < sets.count; ++s) {
            const SetView& set = sets.set[s];
            const std::uint32_t begin = set.begin[j], end = set.begin[j + 1];
#pragma unroll 4
            for (std::uint32_t e = begin; e < end; ++e)
                encoder.add(set.gradient_of[e], V::load(g.xc + set.row_of[e] * g.n + c));
            if (!set.decoder) continue;
            const float* residual = set.residual + (set.main ? group * g.stride : 0) + c;
#pragma unroll 4
            for (std::uint32_t e = begin; e < end; ++e)
                decoder.add(set.value_of[e], V::load(residual + set.row_of[e] * g.n));
        }
        if (g.w_dec != nullptr) decoder.add(-g.multiple[j], V::load(g.w_dec + at));
        encoder.store(g.w_enc_gradient + at);
        decoder.store(g.w_dec_gradient + at);
        square = encoder.square() + decoder.square();
    }
    square = block_sum(square, scratch);
    if (threadIdx.x == 0) g.squares[j * gridDim.y + blockIdx.y] = square;
}

// Sums of groups of latents of dL/db_enc w, [groups, n]; a thread to a column. Reads 4 n bytes a latent with
// codes.
__global__ void add_bias_groups(const float* b_enc, const float* w_enc, std::int64_t width, std::int64_t n,
                                double* sums) {
    const std::int64_t c = global_thread();
    if (c >= n) return;
    double sum = 0;
    for (std::int64_t j = blockIdx.y * bias_latents; j < (blockIdx.y + 1) * bias_latents && j < width; ++j)
        if (b_enc[j] != 0) sum += static_cast<double>(b_enc[j]) * w_enc[j * n + c];
    sums[blockIdx.y * n + c] = sum;
}

__global__ void narrow(const double* from, std::int64_t count, float* to) {
    const std::int64_t i = global_thread();
    if (i < count) to[i] = static_cast<float>(from[i]);
}

}  // namespace cuda

using namespace cuda;

void CudaDevice::accumulate(std::span<const SetUse> sets, std::span<const float> shrink, const Tensors& sae,
                            Tensors& gradient, std::span<LatentSums> sums,
                            const std::function<void(std::int64_t, std::int64_t)>& done) {
    require(sums.size() <= sets.size() && sets.size() <= 3 && sets.front().set == CodeSet::main,
            "main codes first, sums of some of the sets");
    require_range();
    const bool first_rows = first_row_ == 0, last_rows = last_row_ == rows_;
    const std::int64_t width = sae.width;
    const std::size_t summed = std::max<std::size_t>(1, sums.size());  // those of main are needed here
    latent_sums_.grow(4 * width * static_cast<std::int64_t>(summed));
    set_numbers_.grow(2 * width * std::ssize(sets));
    Sets views{static_cast<int>(sets.size()), {}};
    bool uploaded = !shrink.empty();
    for (std::size_t s = 0; s < sets.size(); ++s) {
        CodeTable& codes = table(sets[s].set);
        transpose(codes, width);
        if (s < summed)
            sum_by_latent(codes, width, latent_sums_.data() + static_cast<std::int64_t>(s) * 4 * width);
        float* gain = set_numbers_.data() + static_cast<std::int64_t>(s) * 2 * width;
        cuda::upload(sets[s].gain, gain, stream_, set_numbers_.name());
        cuda::upload(sets[s].shift, gain + width, stream_, set_numbers_.name());
        uploaded = uploaded || !sets[s].gain.empty() || !sets[s].shift.empty();
        views.set[s] = {codes.latent_begin.data(),
                        codes.row_of.data(),
                        codes.value_of.data(),
                        codes.gradient_of.data(),
                        sets[s].decoder ? row_of(codes.residual, first_row_) : nullptr,
                        sets[s].gain.empty() ? nullptr : gain,
                        sets[s].shift.empty() ? nullptr : gain + width,
                        codes.gradient_scale,
                        sets[s].decoder,
                        sets[s].set == CodeSet::main};
    }
    for (DeviceArray<double>* a : {&bias_sums_, &other_along_, &along_sums_, &value_sums_}) a->grow(width);
    along_.grow(width);
    cuda::upload(shrink, shrink_, stream_);
    launch("finish_latents", finish_latents, blocks_of(width, block_warps), block_threads, 0, stream_, views,
           LatentState{bias_sums_.data(), other_along_.data(), along_sums_.data(), value_sums_.data(),
                       gradient.b_enc.data(), along_.data(), latent_sums_.data(),
                       shrink.empty() ? nullptr : shrink_.data(), first_rows, sae.unit_rows},
           width);

    const bool wide = n_ % 4 == 0;
    const unsigned column_blocks = blocks_of(n_, wide ? 4 * block_threads : block_threads);
    make_room_for_norms(width * column_blocks);
    latent_sums_arriving_.make_room(std::ssize(sums) * 4 * width, stream_);
    partial_.grow(std::max<std::int64_t>(blocks_of(width, bias_latents), blocks_of(room_, 64)) * n_);
    const std::int64_t bucket =
        std::max<std::int64_t>(1, bucket_bytes / (2 * n_ * static_cast<std::int64_t>(sizeof(float))));
    for (std::int64_t first = 0; first < width; first += bucket) {
        const std::int64_t last = std::min(first + bucket, width);
        launch("make_gradients", wide ? make_gradients<4> : make_gradients<1>,
               dim3(static_cast<unsigned>(last - first), column_blocks), block_threads,
               block_warps * sizeof(double), stream_, views,
               Gradients{row_of(centered_, first_row_), n_, room_ * n_, groups_of(sae),
                         last_rows ? sae.w_dec.data() : nullptr, along_.data(), gradient.w_enc.data(),
                         gradient.w_dec.data(), !first_rows, first, parts_.data()});
        if (last_rows) done(first, last);
    }
    latent_sums_arriving_.send(latent_sums_.data(), std::ssize(sums) * 4 * width, stream_);
    add_outputs(sae, gradient);
    if (last_rows) {
        send_gradient_norm(width * column_blocks);
        finish_outputs(sae, table(CodeSet::main).gradient_scale, gradient);
    }
    if (sums.empty() && uploaded) stream_.wait("gains and shifts");  // which are the caller's
    for (std::size_t s = 0; s < sums.size(); ++s)
        add_sums(latent_sums_arriving_.get(stream_).subspan(4 * s * static_cast<std::size_t>(width)), width,
                 sums[s]);
}

// What accumulate() makes of the range's rows themselves: sums of R^(1)'s columns (column_sums_), and the
// gradient of W_skip.
void CudaDevice::add_outputs(const Tensors& sae, Tensors& gradient) {
    const std::int64_t rows = last_row_ - first_row_;
    const bool keep = first_row_ > 0;
    column_sums_.grow(n_);
    add_columns(residuals(0), rows, column_sums_.data(), keep);
    if (sae.skip && rows == 0)
        fill_zero(gradient.w_skip.data(), n_ * n_, stream_, "gradients");
    else if (sae.skip)
        product_.multiply(n_, n_, rows, table(CodeSet::main).gradient_scale,
                          {row_of(centered_, first_row_), n_, true}, {residuals(0), n_}, keep ? 1 : 0,
                          gradient.w_skip.data(), n_, stream_);
}

// dL/db_dec from the sums of R^(1)'s columns (column_sums_), and from what passes through x - b_dec.
void CudaDevice::finish_outputs(const Tensors& sae, float gradient_scale, Tensors& gradient) {
    const unsigned blocks = blocks_of(n_, block_threads),
                   groups = sae.transcoder ? 0 : blocks_of(sae.width, bias_latents);
    partial_.grow(std::max<std::int64_t>(1, groups) * n_);
    launch("add_bias_groups", add_bias_groups, dim3(blocks, groups), block_threads, 0, stream_,
           gradient.b_enc.data(), sae.w_enc.data(), sae.width, n_, partial_.data());
    add_column_parts(groups, gradient_scale, -1, column_sums_.data());
    launch("narrow", narrow, blocks, block_threads, 0, stream_, column_sums_.data(), n_,
           gradient.b_dec.data());
}

}  // namespace strata::device
