// Weight gradients latent by latent through the transposed index, and the optimiser step. A latent's two gradient
// rows stay in L1 until they are written once; its projection and norm are taken on the way.

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "device/cpu/cpu_device.h"

namespace strata::device {
namespace {

constexpr std::int64_t latent_group = 64;               // latents whose sums are added in one run
constexpr std::int64_t bucket_bytes = std::int64_t{4} << 20;  // of the gradients handed on at once

}  // namespace

double CpuDevice::accumulate(std::span<const AccumulateTerm> terms, const Tensors& sae, float residual_scale,
                             Tensors& gradient, const std::function<void(std::int64_t, std::int64_t)>& done) {
    for (const AccumulateTerm& term : terms) transpose(table(term.set), sae.width);

    std::vector<double> b_dec(static_cast<std::size_t>(n_), 0.0);
    add_columns(table(CodeSet::main).residual, b_dec);
    for (double& sum : b_dec) sum *= residual_scale;

    const std::int64_t groups = (sae.width + latent_group - 1) / latent_group;
    const std::int64_t bucket =
        std::max<std::int64_t>(1, bucket_bytes / (2 * latent_group * n_ * static_cast<std::int64_t>(sizeof(float))));
    partial_.grow(static_cast<std::size_t>(std::max<std::int64_t>(groups * n_, std::ssize(partial_))));
    group_norms_.assign(static_cast<std::size_t>(groups), 0.0);

    const auto one_latent = [&](std::int64_t j, Scratch& mine, float* through_bias) {
        const auto latent = static_cast<std::size_t>(j);
        float* to_encoder = gradient.w_enc.data() + j * n_;
        float* to_decoder = gradient.w_dec.data() + j * n_;
        std::fill_n(to_encoder, n_, 0.0F);
        std::fill_n(to_decoder, n_, 0.0F);
        double bias = 0;
        for (const AccumulateTerm& term : terms) {
            const CodeTable& codes = table(term.set);
            const std::uint32_t begin = codes.latent_begin[latent];
            const auto count = static_cast<std::int64_t>(codes.latent_begin[latent + 1] - begin);
            if (count == 0) continue;
            mine.selected.resize(static_cast<std::size_t>(count));
            for (std::int64_t e = 0; e < count; ++e) {
                const auto at = begin + static_cast<std::size_t>(e);
                mine.selected[static_cast<std::size_t>(e)] = term.decoder_scale * codes.value_of[at];
                bias += codes.gradient_of[at];
            }
            const std::uint32_t* rows = codes.row_of.data() + begin;
            kernels_.add_rows(codes.residual.data(), rows, mine.selected.data(), count, n_, to_decoder);
            kernels_.add_rows(centered_.data(), rows, codes.gradient_of.data() + begin, count, n_, to_encoder);
        }
        gradient.b_enc.data()[j] = static_cast<float>(bias);
        const float* d = sae.w_dec.data() + j * n_;
        kernels_.add(d, -kernels_.dot(to_decoder, d, n_), n_, to_decoder);
        if (bias != 0) kernels_.add(sae.w_enc.data() + j * n_, static_cast<float>(bias), n_, through_bias);
        return bias * bias + kernels_.dot(to_encoder, to_encoder, n_) + kernels_.dot(to_decoder, to_decoder, n_);
    };

    for (std::int64_t start = 0; start < groups; start += bucket) {
        const std::int64_t stop = std::min(start + bucket, groups);
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
        for (std::int64_t g = start; g < stop; ++g) {
            Scratch& mine = scratch_[static_cast<std::size_t>(omp_get_thread_num())];
            mine.limit.assign(static_cast<std::size_t>(n_), 0.0F);
            double norm = 0;
            for (std::int64_t j = g * latent_group; j < std::min((g + 1) * latent_group, sae.width); ++j)
                norm += one_latent(j, mine, mine.limit.data());
            std::copy_n(mine.limit.data(), n_, partial_.data() + g * n_);
            group_norms_[static_cast<std::size_t>(g)] = norm;
        }
        done(start * latent_group, std::min(stop * latent_group, sae.width));
    }

    double norm = 0;
    for (std::int64_t g = 0; g < groups; ++g) {
        norm += group_norms_[static_cast<std::size_t>(g)];
        for (std::int64_t c = 0; c < n_; ++c)
            b_dec[static_cast<std::size_t>(c)] -= partial_[static_cast<std::size_t>(g * n_ + c)];
    }
    for (std::int64_t c = 0; c < n_; ++c) {
        gradient.b_dec.data()[c] = static_cast<float>(b_dec[static_cast<std::size_t>(c)]);
        norm += b_dec[static_cast<std::size_t>(c)] * b_dec[static_cast<std::size_t>(c)];
    }
    return norm;
}

double CpuDevice::square_norm(const Tensors& t) {
    group_norms_.assign(static_cast<std::size_t>(t.width), 0.0);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t j = 0; j < t.width; ++j) {
        const float* e = t.w_enc.data() + j * n_;
        const float* d = t.w_dec.data() + j * n_;
        const double bias = t.b_enc.data()[j];
        group_norms_[static_cast<std::size_t>(j)] = bias * bias + kernels_.dot(e, e, n_) + kernels_.dot(d, d, n_);
    }
    double norm = kernels_.dot(t.b_dec.data(), t.b_dec.data(), n_);
    for (const double part : group_norms_) norm += part;
    return norm;
}

void CpuDevice::update(Tensors& sae, const Tensors& gradient, Tensors& first, Tensors& second, const AdamStep& step) {
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t j = 0; j < sae.width; ++j) {
        const std::int64_t at = j * n_;
        kernels_.adam(sae.w_enc.data() + at, first.w_enc.data() + at, second.w_enc.data() + at,
                      gradient.w_enc.data() + at, n_, step);
        float* d = sae.w_dec.data() + at;
        kernels_.adam(d, first.w_dec.data() + at, second.w_dec.data() + at, gradient.w_dec.data() + at, n_, step);
        const float square = kernels_.dot(d, d, n_);
        if (square > 0) kernels_.multiply(1.0F / std::sqrt(square), n_, d);
    }
    kernels_.adam(sae.b_enc.data(), first.b_enc.data(), second.b_enc.data(), gradient.b_enc.data(), sae.width, step);
    kernels_.adam(sae.b_dec.data(), first.b_dec.data(), second.b_dec.data(), gradient.b_dec.data(), n_, step);
}

}  // namespace strata::device
