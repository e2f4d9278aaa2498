// The dense form of a step for rules that look at one pre-activation at a time: five products of a few rows
// at a time (encoder, decoder, dL/df and the two gradients), so that memory stays bounded however many pairs
// are active. Blocks of rows, latents and columns have fixed sizes and each product runs on one thread, so
// the result does not depend on the number of threads.

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "device/cpu/cpu_device.h"
#include "device/cpu/product.h"

namespace strata::device {
namespace {

constexpr std::int64_t tile_columns = 512;                     // latents of one task
constexpr std::int64_t decoded_rows = 64;                      // rows of one task while decoding
constexpr std::int64_t most_elements = std::int64_t{1} << 22;  // of a block's pre-activations: 16 MiB

std::vector<LatentTile> tiles_of(const Shape& shape) {
    std::vector<LatentTile> tiles;
    std::int64_t first = 0;
    for (std::int64_t g = 0; g < shape.groups(); ++g)
        for (; first < shape.group_end(g); first = tiles.back().last)
            tiles.push_back({first, std::min(first + tile_columns, shape.group_end(g)), g});
    return tiles;
}

std::int64_t rows_of_block(std::int64_t width) {
    return std::clamp<std::int64_t>(most_elements / width / decoded_rows, 1, 8) * decoded_rows;
}

}  // namespace

DenseReport CpuDevice::dense(const Gate& gate, const Tensors& sae, float gradient_scale,
                             std::span<const float> shrink, Tensors& gradient) {
    const std::int64_t block = std::min(rows_of_block(sae.width), std::max<std::int64_t>(rows_, 1));
    const auto elements = static_cast<std::size_t>(block * sae.width);
    const auto row_elements = static_cast<std::size_t>(block * n_);
    DenseScratch& own = dense_scratch_;
    own.z.grow(elements);
    own.code.grow(elements);
    if (gate.frozen) own.gate.grow(elements);
    own.residual.resize(static_cast<std::size_t>(sae.groups()));
    for (Array<float>& r : own.residual) r.grow(row_elements);
    if (gate.frozen) own.gate_residual.grow(row_elements);
    own.sums.assign(static_cast<std::size_t>(dense_sums * sae.width), 0.0);
    if (rows_ == 0 && gradient_scale != 0) {
        std::fill_n(gradient.w_enc.data(), sae.width * n_, 0.0F);
        std::fill_n(gradient.w_dec.data(), sae.width * n_, 0.0F);
        if (sae.skip) std::fill_n(gradient.w_skip.data(), n_ * n_, 0.0F);
    }
    const std::vector<LatentTile> tiles = tiles_of(sae);
    if (gate.observe) weigh_squares(sae);
    const GateView view = view_of(gate, sae);
    std::vector<double> columns(static_cast<std::size_t>(n_), 0.0);
    for (std::int64_t first = 0; first < rows_; first += block) {
        const std::int64_t count = std::min(block, rows_ - first);
        dense_encode(view, sae, tiles, first, count);
        dense_decode(view, sae, first, count);
        for (std::int64_t b = 0; b < count; ++b)
            for (std::int64_t c = 0; c < n_; ++c)
                columns[static_cast<std::size_t>(c)] +=
                    own.residual.front()[static_cast<std::size_t>(b * n_ + c)];
        if (gradient_scale != 0) dense_backprop(view, sae, tiles, first, count, gradient_scale, gradient);
        if (sae.skip && gradient_scale != 0)
            add_skip_gradient(own.residual.front().data(), count, first, gradient_scale,
                              first > 0 ? 1.0F : 0.0F, gradient);
    }
    DenseReport report = dense_report(decode_sums(CodeSet::main), own.sums, sae.width);
    if (gradient_scale == 0) return report;

    part_norms_.assign(static_cast<std::size_t>(sae.width), 0.0);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t j = 0; j < sae.width; ++j) {
        const auto latent = static_cast<std::size_t>(j);
        gradient.b_enc.data()[j] =
            static_cast<float>(own.sums[static_cast<std::size_t>(encoder_gradient * sae.width) + latent]);
        double along = sae.unit_rows ? report.main.value_gradient[latent] : 0;
        if (!shrink.empty()) along -= shrink[latent] * report.main.value[latent];
        float* d = gradient.w_dec.data() + j * n_;
        const float* e = gradient.w_enc.data() + j * n_;
        if (along != 0) kernels_.add(sae.w_dec.data() + j * n_, static_cast<float>(-along), n_, d);
        part_norms_[latent] = kernels_.dot(d, d, n_) + kernels_.dot(e, e, n_);
    }
    gradient_norm_ = sum_of_parts();
    finish_outputs(sae, columns, gradient_scale, gradient);
    return report;
}

// Pre-activations and codes of a block of rows.
void CpuDevice::dense_encode(const GateView& gate, const Tensors& sae, std::span<const LatentTile> tiles,
                             std::int64_t first, std::int64_t count) {
    DenseScratch& own = dense_scratch_;
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (std::int64_t t = 0; t < std::ssize(tiles); ++t) {
        const auto [begin, end, group] = tiles[static_cast<std::size_t>(t)];
        multiply('N', 'T', count, end - begin, n_, 1, xc(first), sae.w_enc.data() + begin * n_, 0,
                 own.z.data() + begin, {.out = sae.width});
        for (std::int64_t b = 0; b < count; ++b) {
            float* z = own.z.data() + b * sae.width;
            float* code = own.code.data() + b * sae.width;
            float* open = gate.frozen ? own.gate.data() + b * sae.width : nullptr;
            for (std::int64_t j = begin; j < end; ++j) {
                z[j] += gate.bias[j];
                if (open != nullptr) open[j] = gate.active(j, z[j]) ? z[j] : 0.0F;
                code[j] = gate.open_code(j, z[j]);
            }
            if (mask_.empty()) continue;
            for (std::int64_t j = begin; j < end; ++j) {
                if (!masked(static_cast<std::size_t>(first + b), static_cast<std::uint32_t>(j))) continue;
                code[j] = 0;
                if (open != nullptr) open[j] = 0;
            }
        }
    }
}

// Residuals of a block of rows, R^(g) by group; a row's error of the frozen reconstruction goes into its l1.
void CpuDevice::dense_decode(const GateView& gate, const Tensors& sae, std::int64_t first,
                             std::int64_t count) {
    DenseScratch& own = dense_scratch_;
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (std::int64_t begin = 0; begin < count; begin += decoded_rows) {
        const std::int64_t rows = std::min(decoded_rows, count - begin);
        const auto start_from = [&](float* to, const float* from, float factor) {
            for (std::int64_t i = 0; i < rows * n_; ++i) to[i] = factor * from[i];
        };
        std::int64_t latent = 0;
        for (std::int64_t g = 0; g < sae.groups(); ++g) {
            float* residual = own.residual[static_cast<std::size_t>(g)].data() + begin * n_;
            if (g == 0)
                start_from(residual, target_row(first + begin), -1);
            else
                start_from(residual, own.residual[static_cast<std::size_t>(g - 1)].data() + begin * n_, 1);
            multiply('N', 'N', rows, n_, sae.group_end(g) - latent, 1,
                     own.code.data() + begin * sae.width + latent, sae.w_dec.data() + latent * n_, 1,
                     residual, {.a = sae.width});
            latent = sae.group_end(g);
        }
        if (gate.frozen) {
            float* residual = own.gate_residual.data() + begin * n_;
            start_from(residual, target_row(first + begin), -1);
            multiply('N', 'N', rows, n_, sae.width, 1, own.gate.data() + begin * sae.width, sae.w_dec.data(),
                     1, residual, {.a = sae.width});
        }
        for (std::int64_t b = begin; b < begin + rows; ++b) {
            DecodeSums& sums = row_sums_[static_cast<std::size_t>(first + b)];
            sums = {};
            for (Array<float>& r : own.residual) {
                const float* residual = r.data() + b * n_;
                sums.squared_error = kernels_.dot(residual, residual, n_);
                sums.prefix_error += sums.squared_error;
            }
            const float* residual = own.residual.back().data() + b * n_;
            align_row(sae, first + b, residual, sums);
            if (gate.frozen) {
                const float* frozen = own.gate_residual.data() + b * n_;
                sums.l1 = kernels_.dot(frozen, frozen, n_);
            }
            for (std::size_t g = own.residual.size() - 1; g-- > 0;)
                kernels_.add(own.residual[g + 1].data() + b * n_, 1, n_, own.residual[g].data() + b * n_);
        }
    }
}

// dL/dz in place of z, the sums by latent, and what the block adds to the gradients.
void CpuDevice::dense_backprop(const GateView& gate, const Tensors& sae, std::span<const LatentTile> tiles,
                               std::int64_t first, std::int64_t count, float gradient_scale,
                               Tensors& gradient) {
    DenseScratch& own = dense_scratch_;
    const float keep = first > 0 ? 1.0F : 0.0F;
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (std::int64_t t = 0; t < std::ssize(tiles); ++t) {
        const auto [begin, end, group] = tiles[static_cast<std::size_t>(t)];
        const std::int64_t columns = end - begin;
        const auto size = static_cast<std::size_t>(count * columns);
        Scratch& mine = scratch_[static_cast<std::size_t>(omp_get_thread_num())];
        mine.dense.grow(gate.frozen ? 2 * size : size);
        const float* residual = own.residual[static_cast<std::size_t>(group)].data();
        const float* d = sae.w_dec.data() + begin * n_;
        float* dots = mine.dense.data();
        float* frozen = gate.frozen ? dots + size : nullptr;
        double* sums = own.sums.data();
        multiply('N', 'T', count, columns, n_, gradient_scale, residual, d, 0, dots);
        if (gate.frozen)
            multiply('N', 'T', count, columns, n_, gradient_scale, own.gate_residual.data(), d, 0, frozen);
        for (std::int64_t b = 0; b < count; ++b) {
            float* z = own.z.data() + b * sae.width + begin;
            const float* code = own.code.data() + b * sae.width + begin;
            for (std::int64_t c = 0; c < columns; ++c) {
                const std::int64_t j = begin + c, at = b * columns + c;
                const bool out = masked(static_cast<std::size_t>(first + b), static_cast<std::uint32_t>(j));
                z[c] = backprop_pair(
                    gate, j, {z[c], code[c], dots[at], frozen == nullptr ? nullptr : frozen + at, out},
                    square_weight_.data(), gradient_scale,
                    [&](DenseSum which, double value) { sums[which * sae.width + j] += value; });
            }
        }
        multiply('T', 'N', columns, n_, count, gradient_scale, own.code.data() + begin, residual, keep,
                 gradient.w_dec.data() + begin * n_, {.a = sae.width});
        multiply('T', 'N', columns, n_, count, 1, own.z.data() + begin, xc(first), keep,
                 gradient.w_enc.data() + begin * n_, {.a = sae.width});
    }
}

}  // namespace strata::device
