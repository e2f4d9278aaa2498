// Weight gradients latent by latent through the transposed index, and the optimiser step.
//
// A latent's gradients are weighted sums of rows of xc and of the residual, in whatever order its codes come:
// read from whole rows they would stream every row once per code from the last-level cache. Instead the
// columns are taken tile by tile: a tile of all rows fits a core's L2, a latent's sum in that tile fits the
// registers, and every gradient is written once. The component of the decoder's gradient along d_j is known
// beforehand,
//   d_j . sum_b s f_bj residual_b = sum_b f_bj (dL/df_bj),
// so the projection needs no second pass.

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "device/cpu/cpu_device.h"

namespace strata::device {
namespace {

constexpr std::int64_t latent_group = 64;  // latents whose sums are added in one run

// Gradients handed on at once, so that their reduction runs beside the rest. Each bucket loads the tiles
// anew.
constexpr std::int64_t bucket_bytes = std::int64_t{32} << 20;

}  // namespace

// W_enc and W_dec gradients of a group of latents in one tile of columns; returns their squared norm.
double CpuDevice::accumulate_group(std::span<const CodeSet> sets, const Tensors& sae, Tensors& gradient,
                                   std::int64_t group, std::int64_t tile) {
    const std::int64_t width = centered_tiles_.width;
    const std::int64_t valid = centered_tiles_.valid(tile);
    double norm = 0;
    TileSource encoder[2];
    TileSource decoder[2];
    for (std::int64_t j = group * latent_group; j < std::min((group + 1) * latent_group, sae.width); ++j) {
        const auto latent = static_cast<std::size_t>(j);
        const std::int64_t at = j * n_ + tile * width;
        for (std::int64_t c = 0; c < valid; c += 16) {
            __builtin_prefetch(sae.w_dec.data() + at + 2 * n_ + c, 0);
            __builtin_prefetch(gradient.w_enc.data() + at + 2 * n_ + c, 1);
            __builtin_prefetch(gradient.w_dec.data() + at + 2 * n_ + c, 1);
        }
        for (std::size_t s = 0; s < sets.size(); ++s) {
            const CodeTable& codes = table(sets[s]);
            const std::uint32_t begin = codes.latent_begin[latent];
            const std::int64_t count = codes.latent_begin[latent + 1] - begin;
            const std::uint32_t* rows = codes.row_of.data() + begin;
            encoder[s] = {centered_tiles_.at(tile, 0), rows, codes.gradient_of.data() + begin, count};
            decoder[s] = {codes.residual.at(tile, 0), rows, codes.value_of.data() + begin, count};
        }
        const auto count = std::ssize(sets);
        norm += kernels_.add_tiles(encoder, count, width, valid, 0, nullptr, gradient.w_enc.data() + at);
        norm += kernels_.add_tiles(decoder, count, width, valid, along_[latent], sae.w_dec.data() + at,
                                   gradient.w_dec.data() + at);
    }
    return norm;
}

double CpuDevice::accumulate(std::span<const CodeSet> sets, const Tensors& sae, Tensors& gradient,
                             const std::function<void(std::int64_t, std::int64_t)>& done) {
    STRATA_ASSERT(sets.size() <= 2);
    for (const CodeSet set : sets) transpose(table(set), sae.width);

    std::vector<double> b_dec(static_cast<std::size_t>(n_), 0.0);
    add_columns(table(CodeSet::main).residual, b_dec);
    for (double& sum : b_dec) sum *= table(CodeSet::main).gradient_scale;

    along_.resize(static_cast<std::size_t>(sae.width));
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t j = 0; j < sae.width; ++j) {
        double bias = 0;
        double along = 0;
        for (const CodeSet set : sets) {
            const CodeTable& codes = table(set);
            for (std::uint32_t e = codes.latent_begin[static_cast<std::size_t>(j)];
                 e < codes.latent_begin[static_cast<std::size_t>(j) + 1]; ++e) {
                bias += codes.gradient_of[e];
                along += static_cast<double>(codes.value_of[e]) * codes.gradient_of[e] / codes.gradient_scale;
            }
        }
        gradient.b_enc.data()[j] = static_cast<float>(bias);
        along_[static_cast<std::size_t>(j)] = static_cast<float>(along);
    }

    const std::int64_t tiles = centered_tiles_.count();
    const std::int64_t groups = (sae.width + latent_group - 1) / latent_group;
    const std::int64_t bucket = std::max<std::int64_t>(
        1, bucket_bytes / (2 * latent_group * n_ * static_cast<std::int64_t>(sizeof(float))));
    partial_.grow(std::max(static_cast<std::size_t>(groups * n_), partial_.size()));
    part_norms_.assign(static_cast<std::size_t>(groups * tiles), 0.0);
    for (std::int64_t start = 0; start < groups; start += bucket) {
        const std::int64_t stop = std::min(start + bucket, groups);
#pragma omp parallel num_threads(threads_)
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
#pragma omp for schedule(dynamic) nowait
            for (std::int64_t g = start; g < stop; ++g)
                part_norms_[static_cast<std::size_t>(g * tiles + tile)] =
                    accumulate_group(sets, sae, gradient, g, tile);
        }
        done(start * latent_group, std::min(stop * latent_group, sae.width));
    }

    // What passes on to b_dec through x - b_dec.
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t g = 0; g < groups; ++g) {
        std::vector<float>& sum = scratch_[static_cast<std::size_t>(omp_get_thread_num())].row;
        sum.assign(static_cast<std::size_t>(n_), 0.0F);
        for (std::int64_t j = g * latent_group; j < std::min((g + 1) * latent_group, sae.width); ++j)
            if (gradient.b_enc.data()[j] != 0)
                kernels_.add(sae.w_enc.data() + j * n_, gradient.b_enc.data()[j], n_, sum.data());
        std::ranges::copy(sum, partial_.data() + g * n_);
    }

    double norm = 0;
    for (const double part : part_norms_) norm += part;
    for (std::int64_t j = 0; j < sae.width; ++j)
        norm += static_cast<double>(gradient.b_enc.data()[j]) * gradient.b_enc.data()[j];
    for (std::int64_t g = 0; g < groups; ++g)
        for (std::int64_t c = 0; c < n_; ++c)
            b_dec[static_cast<std::size_t>(c)] -= partial_[static_cast<std::size_t>(g * n_ + c)];
    for (std::int64_t c = 0; c < n_; ++c) {
        gradient.b_dec.data()[c] = static_cast<float>(b_dec[static_cast<std::size_t>(c)]);
        norm += b_dec[static_cast<std::size_t>(c)] * b_dec[static_cast<std::size_t>(c)];
    }
    return norm;
}

double CpuDevice::square_norm(const Tensors& t) {
    part_norms_.assign(static_cast<std::size_t>(t.width), 0.0);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t j = 0; j < t.width; ++j) {
        const float* e = t.w_enc.data() + j * n_;
        const float* d = t.w_dec.data() + j * n_;
        const double bias = t.b_enc.data()[j];
        part_norms_[static_cast<std::size_t>(j)] =
            bias * bias + kernels_.dot(e, e, n_) + kernels_.dot(d, d, n_);
    }
    double norm = kernels_.dot(t.b_dec.data(), t.b_dec.data(), n_);
    for (const double part : part_norms_) norm += part;
    return norm;
}

void CpuDevice::update(Tensors& sae, const Tensors& gradient, Tensors& first, Tensors& second,
                       const AdamStep& step) {
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t j = 0; j < sae.width; ++j) {
        const std::int64_t at = j * n_;
        kernels_.adam(sae.w_enc.data() + at, first.w_enc.data() + at, second.w_enc.data() + at,
                      gradient.w_enc.data() + at, n_, step);
        float* d = sae.w_dec.data() + at;
        kernels_.adam(d, first.w_dec.data() + at, second.w_dec.data() + at, gradient.w_dec.data() + at, n_,
                      step);
        const float square = kernels_.dot(d, d, n_);
        if (square > 0) kernels_.multiply(1.0F / std::sqrt(square), n_, d);
    }
    kernels_.adam(sae.b_enc.data(), first.b_enc.data(), second.b_enc.data(), gradient.b_enc.data(), sae.width,
                  step);
    kernels_.adam(sae.b_dec.data(), first.b_dec.data(), second.b_dec.data(), gradient.b_dec.data(), n_, step);
}

}  // namespace strata::device
