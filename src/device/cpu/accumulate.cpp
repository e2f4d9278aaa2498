// Weight gradients latent by latent through the transposed index.
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
#include <array>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "device/cpu/cpu_device.h"
#include "device/cpu/product.h"

namespace strata::device {
namespace {

constexpr std::int64_t latent_group = 64;  // latents whose sums are added in one run

// Gradients handed on at once, so that their reduction runs beside the rest. Each bucket loads the tiles
// anew.
constexpr std::int64_t bucket_bytes = std::int64_t{32} << 20;

}  // namespace

// The transposed index, of the host's rows where ranks have joined. Collective over these.
Summands CpuDevice::summands(std::span<const SetUse> sets, std::int64_t width) {
    for (const SetUse& use : sets) transpose(table(use.set), width);
    Summands from{.centered = centered_tiles_,
                  .sets = {},
                  .latents = {0, width},
                  .first_rows = first_row_ == 0,
                  .last_rows = last_row_ == rows_};
    if (group_ != nullptr) {
        from.latents = part_of(from.latents, group_->rank(), group_->size());
        std::vector<RankCodes> own;
        for (const SetUse& use : sets) {
            const CodeTable& codes = table(use.set);
            own.push_back({&codes.by_latent, use.decoder ? codes.residual : std::span<const Tiles>()});
        }
        const HostRows rows = gather_batch(host_, *group_, centered_tiles_, own, {first_row_, last_row_},
                                           from.latents, from.last_rows, threads_);
        from.first_rows = rows.first;
        from.last_rows = rows.last;
        from.centered = host_.centered;
    }
    for (std::size_t s = 0; s < sets.size(); ++s) {
        CodeTable& codes = table(sets[s].set);
        Summands::Set& set = from.sets.emplace_back(&sets[s], &codes.by_latent, codes.gradient_scale);
        set.residual.assign(codes.residual.begin(), codes.residual.end());
        if (group_ == nullptr) continue;
        set.codes = &host_.sets[s].codes;
        set.residual = host_.sets[s].residual;
    }
    return from;
}

// W_enc and W_dec gradients of some latents in one tile of columns; returns their squared norm. After the
// last rows what lies along d_j is taken out.
double CpuDevice::accumulate_group(const Summands& from, const Tensors& sae, Tensors& gradient, Slice latents,
                                   std::int64_t tile) const {
    const std::int64_t width = from.centered.width;
    const std::int64_t valid = from.centered.valid(tile);
    double norm = 0;
    std::array<TileSource, 3> encoder;
    std::array<TileSource, 3> decoder;
    std::int64_t g = 0;
    for (std::int64_t j = latents.first; j < latents.last; ++j) {
        while (j >= sae.group_end(g)) ++g;
        const auto latent = static_cast<std::size_t>(j);
        const std::int64_t at = j * n_ + tile * width;
        for (std::int64_t c = 0; c < valid; c += 16) {
            __builtin_prefetch(sae.w_dec.data() + at + 2 * n_ + c, 0);
            __builtin_prefetch(gradient.w_enc.data() + at + 2 * n_ + c, 1);
            __builtin_prefetch(gradient.w_dec.data() + at + 2 * n_ + c, 1);
        }
        std::int64_t encoders = 0, decoders = 0;
        for (const Summands::Set& set : from.sets) {
            const std::uint32_t begin = set.codes->begin[latent];
            const std::int64_t count = set.codes->begin[latent + 1] - begin;
            const std::uint32_t* rows = set.codes->row.data() + begin;
            encoder[static_cast<std::size_t>(encoders++)] = {from.centered.at(tile, 0), rows,
                                                             set.codes->gradient.data() + begin, count};
            if (!set.use->decoder) continue;
            const auto residual = static_cast<std::size_t>(set.use->set == CodeSet::main ? g : 0);
            decoder[static_cast<std::size_t>(decoders++)] = {set.residual[residual].at(tile, 0), rows,
                                                             set.codes->value.data() + begin, count};
        }
        norm += kernels_.add_tiles(encoder.data(), encoders, width, valid, 0, nullptr, !from.first_rows,
                                   gradient.w_enc.data() + at);
        norm += kernels_.add_tiles(decoder.data(), decoders, width, valid, along_[latent],
                                   from.last_rows ? sae.w_dec.data() + at : nullptr, !from.first_rows,
                                   gradient.w_dec.data() + at);
    }
    return norm;
}

void CpuDevice::accumulate(std::span<const SetUse> sets, std::span<const float> shrink, const Tensors& sae,
                           Tensors& gradient, std::span<LatentSums> all_sums,
                           const std::function<void(std::int64_t, std::int64_t)>& done) {
    if (all_sums.empty()) all_sums = std::span(&main_sums_, 1);
    STRATA_ASSERT(all_sums.size() <= sets.size() && sets.size() <= 3 && sets.front().set == CodeSet::main);
    const Summands from = summands(sets, sae.width);
    for (std::size_t s = 0; s < all_sums.size(); ++s) {
        if (from.first_rows) all_sums[s].reset(sae.width);
        sum_by_latent(*from.sets[s].codes, from.sets[s].scale, all_sums[s]);
    }
    const LatentSums& sums = all_sums.front();

    along_.resize(static_cast<std::size_t>(sae.width));
    for (std::vector<double>* a : {&bias_sums_, &other_along_})
        if (from.first_rows) a->assign(static_cast<std::size_t>(sae.width), 0.0);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t j = 0; j < sae.width; ++j) {
        const auto latent = static_cast<std::size_t>(j);
        double bias = 0, other_along = 0;
        for (const Summands::Set& set : from.sets) {
            const SetUse& use = *set.use;
            const float gain = use.gain.empty() ? 1.0F : use.gain[latent];
            const float shift = use.shift.empty() ? 0.0F : use.shift[latent];
            for (std::uint32_t e = set.codes->begin[latent]; e < set.codes->begin[latent + 1]; ++e) {
                float& g = set.codes->gradient[e];
                if (use.decoder && use.set != CodeSet::main && sae.unit_rows)
                    other_along += static_cast<double>(set.codes->value[e]) * g / set.scale;
                g = gain * g + shift;
                bias += g;
            }
        }
        bias_sums_[latent] += bias;
        other_along_[latent] += other_along;
        double along = other_along_[latent];
        if (sae.unit_rows) along += sums.value_gradient[latent];
        if (!shrink.empty()) along -= shrink[latent] * sums.value[latent];
        gradient.b_enc.data()[j] = static_cast<float>(bias_sums_[latent]);
        along_[latent] = static_cast<float>(along);
    }

    const std::int64_t tiles = from.centered.count();
    const std::int64_t bucket = std::max<std::int64_t>(
        1, bucket_bytes / (2 * latent_group * n_ * static_cast<std::int64_t>(sizeof(float))));
    const std::int64_t end = from.latents.last;
    const std::int64_t groups = (end - from.latents.first + latent_group - 1) / latent_group;
    part_norms_.assign(static_cast<std::size_t>(groups * tiles), 0.0);
    const auto latents_from = [&](std::int64_t group, std::int64_t count) {
        const std::int64_t first = from.latents.first + group * latent_group;
        return Slice{first, std::min(first + count * latent_group, end)};
    };
    for (std::int64_t start = 0; start < groups; start += bucket) {
        const std::int64_t stop = std::min(start + bucket, groups);
#pragma omp parallel num_threads(threads_)
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
#pragma omp for schedule(dynamic) nowait
            for (std::int64_t g = start; g < stop; ++g)
                part_norms_[static_cast<std::size_t>(g * tiles + tile)] =
                    accumulate_group(from, sae, gradient, latents_from(g, 1), tile);
        }
        const Slice made = latents_from(start, stop - start);
        if (from.last_rows) done(made.first, made.last);
    }
    gradient_norm_ = sum_of_parts();
    if (!from.last_rows) return;
    const CodeTable& main = table(CodeSet::main);
    std::vector<double> residual(static_cast<std::size_t>(n_), 0.0);
    add_columns(main.residual.front(), {0, rows_}, residual);
    finish_outputs(sae, residual, main.gradient_scale, gradient);
    if (sae.skip) {
        Array<float> rows(static_cast<std::size_t>(rows_ * n_));
        for (std::int64_t b = 0; b < rows_; ++b) main.residual.front().load(b, rows.data() + b * n_);
        add_skip_gradient(rows.data(), rows_, 0, main.gradient_scale, 0, gradient);
    }
}

double CpuDevice::sum_of_parts() const {
    return std::accumulate(part_norms_.begin(), part_norms_.end(), 0.0);
}

// dL/db_dec from the sums of R^(1)'s columns, and from what passes through x - b_dec.
void CpuDevice::finish_outputs(const Tensors& sae, std::span<const double> residual, float gradient_scale,
                               Tensors& gradient) {
    std::vector<double> b_dec(residual.begin(), residual.end());
    for (double& sum : b_dec) sum *= gradient_scale;
    if (!sae.transcoder) {
        const std::int64_t groups = (sae.width + latent_group - 1) / latent_group;
        partial_.grow(std::max(static_cast<std::size_t>(groups * n_), partial_.size()));
#pragma omp parallel for num_threads(threads_) schedule(static)
        for (std::int64_t g = 0; g < groups; ++g) {
            std::vector<float>& sum = scratch_[static_cast<std::size_t>(omp_get_thread_num())].row;
            sum.assign(static_cast<std::size_t>(n_), 0.0F);
            for (std::int64_t j = g * latent_group; j < std::min((g + 1) * latent_group, sae.width); ++j)
                if (gradient.b_enc.data()[j] != 0)
                    kernels_.add(sae.w_enc.data() + j * n_, gradient.b_enc.data()[j], n_, sum.data());
            std::ranges::copy(sum, partial_.data() + g * n_);
        }
        for (std::int64_t g = 0; g < groups; ++g)
            for (std::int64_t c = 0; c < n_; ++c)
                b_dec[static_cast<std::size_t>(c)] -= partial_[static_cast<std::size_t>(g * n_ + c)];
    }
    for (std::int64_t c = 0; c < n_; ++c)
        gradient.b_dec.data()[c] = static_cast<float>(b_dec[static_cast<std::size_t>(c)]);
}

// dL/dW_skip = scale x^T R for rows [first, first + count) of the batch, by blocks of inputs; `keep` 1 adds
// to what is there.
void CpuDevice::add_skip_gradient(const float* residual, std::int64_t count, std::int64_t first, float scale,
                                  float keep, Tensors& gradient) {
    constexpr std::int64_t block = 64;
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t c = 0; c < n_; c += block)
        multiply('T', 'N', std::min(block, n_ - c), n_, count, scale, xc(first) + c, residual, keep,
                 gradient.w_skip.data() + c * n_, {.a = n_});
}

double CpuDevice::sum_in_order(std::span<const float* const> of_ranks, std::size_t count, float* out) {
    constexpr std::size_t piece = 4096;  // in L1 while the ranks' parts are added
    const std::size_t pieces = (count + piece - 1) / piece;
    part_norms_.assign(pieces, 0.0);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::size_t i = 0; i < pieces; ++i) {
        const std::size_t at = i * piece;
        const auto size = static_cast<std::int64_t>(std::min(piece, count - at));
        alignas(64) float sum[piece];
        std::copy_n(of_ranks[0] + at, size, sum);
        for (const float* rank : of_ranks.subspan(1)) kernels_.add(rank + at, 1, size, sum);
        std::copy_n(sum, size, out + at);
        part_norms_[i] = kernels_.dot(sum, sum, size);
    }
    return sum_of_parts();
}

void CpuDevice::row_norms(std::span<const float> rows, std::span<float> norms) {
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::size_t i = 0; i < norms.size(); ++i) {
        const float* row = rows.data() + i * static_cast<std::size_t>(n_);
        norms[i] = std::sqrt(kernels_.dot(row, row, n_));
    }
}

void CpuDevice::square_norms(std::span<const std::span<float>> arrays, std::span<double> norms) {
    for (std::size_t i = 0; i < arrays.size(); ++i) norms[i] = square_norm(arrays[i]);
}

double CpuDevice::square_norm(std::span<const float> values) {
    constexpr std::size_t piece = 4096;
    const std::size_t pieces = (values.size() + piece - 1) / piece;
    part_norms_.assign(pieces, 0.0);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::size_t i = 0; i < pieces; ++i) {
        const float* at = values.data() + i * piece;
        part_norms_[i] =
            kernels_.dot(at, at, static_cast<std::int64_t>(std::min(piece, values.size() - i * piece)));
    }
    return sum_of_parts();
}

}  // namespace strata::device
