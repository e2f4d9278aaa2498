// The dense form of a step for rules that look at one pre-activation at a time: five products of a block of
// rows (encoder, decoder, dL/df and the two gradients) in float32, so that memory stays bounded however many
// pairs are active. Sums by latent go down the rows: a lane to a latent, the rows divided among the warps of
// a block.

#include <algorithm>

#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"

namespace strata::device {
namespace cuda {

// z + b_enc in place of the product, codes, and the gate's codes; a thread to a pair. 12 bytes a pair, or 16.
__global__ void make_dense_codes(GateView gate, DeviceMask mask, std::int64_t first_row, std::int64_t rows,
                                 std::int64_t width, float* z, float* code, float* open) {
    const std::int64_t i = global_thread();
    if (i >= rows * width) return;
    const std::int64_t j = i % width;
    const float value = z[i] + gate.bias[j];
    z[i] = value;
    const bool out = mask(first_row + i / width, static_cast<std::uint32_t>(j));
    code[i] = out ? 0.0F : gate.open_code(j, value);
    if (gate.frozen) open[i] = gate.active(j, value) && !out ? value : 0.0F;
}

__global__ void copy_scaled(const float* from, std::int64_t count, float factor, float* to) {
    const std::int64_t i = global_thread();
    if (i < count) to[i] = factor * from[i];
}

// Errors of a block's rows, and R^(g) by group in place of residual^(g); a warp to a row. row_sums are those
// of DecodeSums, the error of the frozen reconstruction in the place of l1. 4 n bytes a group twice.
__global__ void finish_dense_rows(float* residual, int groups, std::int64_t stride, const float* frozen,
                                  const float* output, std::int64_t rows, std::int64_t n, double* row_sums) {
    const std::int64_t r = global_warp();
    if (r >= rows) return;
    double prefix_error = 0;
    float squared_error = 0;
    for (int g = 0; g < groups; ++g) {
        const float* own = residual + g * stride + r * n;
        squared_error = warp_dot(own, own, n);
        prefix_error += squared_error;
    }
    const float* last = residual + (groups - 1) * stride + r * n;
    float yy = 0, yh = 0, hh = 0;
    for (std::int64_t c = lane(); c < n; c += 32) {
        const float y = output[r * n + c], x_hat = y + last[c];
        yy = fmaf(y, y, yy);
        yh = fmaf(y, x_hat, yh);
        hh = fmaf(x_hat, x_hat, hh);
    }
    const double y_square = fold(static_cast<double>(yy)), aligned = fold(static_cast<double>(yh)),
                 x_hat_square = fold(static_cast<double>(hh));
    const float frozen_error = frozen == nullptr ? 0.0F : warp_dot(frozen + r * n, frozen + r * n, n);
    for (int g = groups - 1; g-- > 0;)
        for (std::int64_t c = lane(); c < n; c += 32)
            residual[g * stride + r * n + c] += residual[(g + 1) * stride + r * n + c];
    if (lane() != 0) return;
    put_row_sums(row_sums + r * row_numbers, squared_error, prefix_error, frozen_error, y_square, aligned,
                 x_hat_square, 0);
}

struct DenseBlock {
    std::int64_t first_row, rows, width;
    float* z;  // becomes dL/dz
    const float* code;
    const float* dots;    // dL/df
    const float* frozen;  // null: none
    const float* square_weight;
    float gradient_scale;
    double* sums;  // [dense_sums, M]
};

// A block has 32 neighbouring latents, a lane to each; its warps take one range of rows each, whose sums are
// added in their order. 16 bytes a pair, or 20, coalesced; `dense_shared` bytes of shared memory.
constexpr unsigned dense_warps = 8;
constexpr std::size_t dense_shared = dense_warps * dense_sums * 32 * sizeof(double);
__global__ void backprop_dense(GateView gate, DeviceMask mask, DenseBlock block) {
    auto* parts = reinterpret_cast<double*>(strata_shared);  // [warps, sums, 32]
    const std::int64_t j = static_cast<std::int64_t>(blockIdx.x) * 32 + lane(), width = block.width;
    double sums[dense_sums] = {};
    const std::int64_t end = j < width ? block.rows * (warp() + 1) / dense_warps : 0;
    for (std::int64_t b = block.rows * warp() / dense_warps; b < end; ++b) {
        const std::int64_t at = b * width + j;
        const bool out = mask(block.first_row + b, static_cast<std::uint32_t>(j));
        block.z[at] = backprop_pair(gate, j,
                                    {block.z[at], block.code[at], block.dots[at],
                                     block.frozen == nullptr ? nullptr : block.frozen + at, out},
                                    block.square_weight, block.gradient_scale,
                                    [&](DenseSum which, double value) { sums[which] += value; });
    }
    for (unsigned s = 0; s < dense_sums; ++s) parts[(warp() * dense_sums + s) * 32 + lane()] = sums[s];
    __syncthreads();
    if (j >= width) return;
    for (unsigned s = warp(); s < dense_sums; s += dense_warps) {
        double sum = block.sums[s * width + j];
        for (unsigned w = 0; w < dense_warps; ++w) sum += parts[(w * dense_sums + s) * 32 + lane()];
        block.sums[s * width + j] = sum;
    }
}

// What lies along d_j is taken out, and what shrinks it added; squared norms. A warp to a latent.
__global__ void finish_dense_latents(const double* sums, const float* shrink, bool unit_rows,
                                     const float* w_dec, std::int64_t width, std::int64_t n, float* b_enc,
                                     const float* w_enc_gradient, float* w_dec_gradient, double* squares) {
    const std::int64_t j = global_warp();
    if (j >= width) return;
    double along = unit_rows ? sums[main_both * width + j] : 0;
    if (shrink != nullptr) along -= shrink[j] * sums[main_value * width + j];
    const auto factor = static_cast<float>(-along);
    double square = 0;
    for (std::int64_t c = lane(); c < n; c += 32) {
        float& d = w_dec_gradient[j * n + c];
        const float e = w_enc_gradient[j * n + c];
        d = fmaf(factor, w_dec[j * n + c], d);
        square += static_cast<double>(d) * d + static_cast<double>(e) * e;
    }
    square = fold(square);
    if (lane() != 0) return;
    squares[j] = square;
    b_enc[j] = static_cast<float>(sums[encoder_gradient * width + j]);
}

}  // namespace cuda

using namespace cuda;

DenseReport CudaDevice::dense(const Gate& gate, const Tensors& sae, float gradient_scale,
                              std::span<const float> shrink, Tensors& gradient) {
    const std::int64_t width = sae.width, groups = sae.groups();
    const std::int64_t block = std::clamp<std::int64_t>(tile_.dense_pairs / width, 1,
                                                        std::max<std::int64_t>(1, std::min(rows_, room_)));
    const std::int64_t stride = block * n_;
    z_.grow(block * width);
    code_.grow(block * width);
    dots_.grow(block * width);
    block_residual_.grow(groups * stride);
    if (gate.frozen) {
        gate_.grow(block * width);
        frozen_dots_.grow(block * width);
        gate_residual_.grow(stride);
    }
    dense_sums_.grow(dense_sums * width);
    column_sums_.grow(n_);
    fill_zero(dense_sums_.data(), dense_sums * width, stream_, "sums by latent");
    fill_zero(column_sums_.data(), n_, stream_, "column sums");
    const bool backward = gradient_scale != 0;
    if (rows_ == 0 && backward) {
        fill_zero(gradient.w_enc.data(), width * n_, stream_, "gradients");
        fill_zero(gradient.w_dec.data(), width * n_, stream_, "gradients");
        if (sae.skip) fill_zero(gradient.w_skip.data(), n_ * n_, stream_, "gradients");
    }
    const GateView view = upload_gate(gate, sae);
    if (gate.observe) weigh_squares(sae);

    for (std::int64_t first = 0; first < rows_; first += block) {
        const std::int64_t count = std::min(block, rows_ - first);
        const float keep = first > 0 ? 1.0F : 0.0F;
        hold_with_targets({first, first + count});
        const float* xc = row_of(centered_, first);
        product_.multiply(count, width, n_, 1, {xc, n_}, {sae.w_enc.data(), n_, true}, 0, z_.data(), width,
                          stream_);
        launch("make_dense_codes", make_dense_codes, blocks_of(count * width, block_threads), block_threads,
               0, stream_, view, device_mask(), first, count, width, z_.data(), code_.data(), gate_.data());

        const auto begin_residual = [&](const float* from, float factor, float* to) {
            launch("copy_scaled", copy_scaled, blocks_of(count * n_, block_threads), block_threads, 0,
                   stream_, from, count * n_, factor, to);
        };
        // visit(group, its first latent, its latents)
        const auto each_group = [&](const auto& visit) {
            for (std::int64_t g = 0, latent = 0; g < groups; latent = sae.group_end(g++))
                visit(block_residual_.data() + g * stride, g, latent, sae.group_end(g) - latent);
        };
        each_group([&](float* residual, std::int64_t g, std::int64_t latent, std::int64_t latents) {
            if (g == 0)
                begin_residual(target(first), -1, residual);
            else
                begin_residual(residual - stride, 1, residual);
            product_.multiply(count, n_, latents, 1, {code_.data() + latent, width},
                              {sae.w_dec.data() + latent * n_, n_}, 1, residual, n_, stream_);
        });
        if (gate.frozen) {
            begin_residual(target(first), -1, gate_residual_.data());
            product_.multiply(count, n_, width, 1, {gate_.data(), width}, {sae.w_dec.data(), n_}, 1,
                              gate_residual_.data(), n_, stream_);
        }
        launch("finish_dense_rows", finish_dense_rows, blocks_of(count, block_warps), block_threads, 0,
               stream_, block_residual_.data(), static_cast<int>(groups), stride,
               gate.frozen ? gate_residual_.data() : nullptr, output(first), count, n_,
               sums_of_rows(CodeSet::main).by_row.data() + row_numbers * first);
        add_columns(block_residual_.data(), count, column_sums_.data(), true);
        if (!backward) continue;

        each_group([&](const float* residual, std::int64_t, std::int64_t latent, std::int64_t latents) {
            product_.multiply(count, latents, n_, gradient_scale, {residual, n_},
                              {sae.w_dec.data() + latent * n_, n_, true}, 0, dots_.data() + latent, width,
                              stream_);
        });
        if (gate.frozen)
            product_.multiply(count, width, n_, gradient_scale, {gate_residual_.data(), n_},
                              {sae.w_dec.data(), n_, true}, 0, frozen_dots_.data(), width, stream_);
        launch("backprop_dense", backprop_dense, blocks_of(width, 32), 32 * dense_warps, dense_shared,
               stream_, view, device_mask(),
               DenseBlock{first, count, width, z_.data(), code_.data(), dots_.data(),
                          gate.frozen ? frozen_dots_.data() : nullptr, square_weight_.data(), gradient_scale,
                          dense_sums_.data()});
        each_group([&](const float* residual, std::int64_t, std::int64_t latent, std::int64_t latents) {
            product_.multiply(latents, n_, count, gradient_scale, {code_.data() + latent, width, true},
                              {residual, n_}, keep, gradient.w_dec.data() + latent * n_, n_, stream_);
        });
        product_.multiply(width, n_, count, 1, {z_.data(), width, true}, {xc, n_}, keep,
                          gradient.w_enc.data(), n_, stream_);
        if (sae.skip)
            product_.multiply(n_, n_, count, gradient_scale, {xc, n_, true}, {block_residual_.data(), n_},
                              keep, gradient.w_skip.data(), n_, stream_);
    }

    std::vector<double> by_latent(static_cast<std::size_t>(dense_sums * width));
    send_sums_of_rows(CodeSet::main);
    cuda::upload(shrink, shrink_, stream_);
    cuda::download(dense_sums_.data(), std::span(by_latent), stream_, "sums by latent");
    DenseReport report = dense_report(decode_sums(CodeSet::main), by_latent, width);
    if (!backward) return report;
    make_room_for_norms(width);
    launch("finish_dense_latents", finish_dense_latents, blocks_of(width, block_warps), block_threads, 0,
           stream_, dense_sums_.data(), shrink.empty() ? nullptr : shrink_.data(), sae.unit_rows,
           sae.w_dec.data(), width, n_, gradient.b_enc.data(), gradient.w_enc.data(), gradient.w_dec.data(),
           parts_.data());
    send_gradient_norm(width);
    finish_outputs(sae, gradient_scale, gradient);
    return report;
}

}  // namespace strata::device
