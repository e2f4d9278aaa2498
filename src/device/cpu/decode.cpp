// Decode and backprop, row by row: a row's residual stays in L1 between the two, its decoder rows in L2.

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "device/cpu/cpu_device.h"

namespace strata::device {
namespace {

constexpr std::int64_t row_group = 64;  // rows whose column sums are added in one run

}  // namespace

void CpuDevice::decode(CodeSet set, const Tensors& sae, float gradient_scale) {
    CodeTable& codes = table(set);
    const PairsByRow& pairs = codes.pairs;
    codes.gradient_scale = gradient_scale;
    // Only main codes have prefixes, and the gate's residual is for its gradient alone.
    const std::int64_t groups = set == CodeSet::main ? sae.groups() : 1;
    const auto stored = static_cast<std::size_t>(set == CodeSet::gate ? 0 : groups);
    if (codes.residual.size() < stored) codes.residual.resize(stored);
    for (std::size_t g = 0; g < stored; ++g)
        if (codes.residual[g].rows != centered_tiles_.rows || codes.residual[g].n != n_)
            codes.residual[g].reset(centered_tiles_.rows, n_);
    codes.gradient.grow(static_cast<std::size_t>(pairs.size()));
    std::vector<DecodeSums>& of_rows = row_sums(set);
    of_rows.resize(row_sums_.size());
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t b = first_row_; b < last_row_; ++b) {
        const auto i = static_cast<std::size_t>(b);
        const std::uint32_t begin = pairs.begin[i];
        const std::uint32_t count = pairs.begin[i + 1] - begin;
        const std::uint32_t* latent = pairs.latent.data() + begin;
        std::vector<float>& scratch = scratch_[static_cast<std::size_t>(omp_get_thread_num())].row;
        scratch.resize(static_cast<std::size_t>(groups * n_));
        DecodeSums& sums = of_rows[i];
        sums = {};

        // residual^(g), group by group: each goes on from the one before it.
        std::uint32_t at = 0;
        for (std::int64_t g = 0; g < groups; ++g) {
            float* residual = scratch.data() + g * n_;
            if (g > 0) {
                std::copy_n(residual - n_, n_, residual);
            } else if (set == CodeSet::auxiliary) {
                table(CodeSet::main).residual[static_cast<std::size_t>(sae.groups() - 1)].load(b, residual);
            } else {
                const float* target = target_row(b);
                for (std::int64_t c = 0; c < n_; ++c) residual[c] = -target[c];
            }
            const std::uint32_t first = at;
            if (g + 1 == groups)
                at = count;
            else
                while (at < count && latent[at] < static_cast<std::uint64_t>(sae.group_end(g))) ++at;
            kernels_.add_rows(sae.w_dec.data(), latent + first, pairs.value.data() + begin + first,
                              at - first, n_, residual);
            sums.squared_error = kernels_.dot(residual, residual, n_);
            sums.prefix_error += sums.squared_error;
        }
        sums.active = count;
        for (std::uint32_t e = 0; e < count; ++e) sums.l1 += pairs.value[begin + e];
        const float* residual = scratch.data() + (groups - 1) * n_;
        align_row(sae, b, residual, sums);

        // R^(g), from the last group back, and dL/df of the group's codes.
        for (std::int64_t g = groups; g-- > 0;) {
            float* sum = scratch.data() + g * n_;
            if (g + 1 < groups) kernels_.add(sum + n_, 1, n_, sum);
            if (stored > 0) codes.residual[static_cast<std::size_t>(g)].store(b, sum);
            if (gradient_scale == 0) continue;
            std::uint32_t first = at;
            if (g == 0)
                first = 0;
            else
                while (first > 0 && latent[first - 1] >= static_cast<std::uint64_t>(sae.group_end(g - 1)))
                    --first;
            float* gradient = codes.gradient.data() + begin + first;
            kernels_.dots(sum, sae.w_dec.data(), latent + first, at - first, n_, gradient);
            for (std::uint32_t e = 0; e < at - first; ++e) gradient[e] *= gradient_scale;
            at = first;
        }
    }
}

DecodeSums CpuDevice::decode_sums(CodeSet set) {
    const std::vector<DecodeSums>& of_rows = row_sums(set);
    DecodeSums total;
    for (std::int64_t b = 0; b < rows_; ++b) total += of_rows[static_cast<std::size_t>(b)];
    return total;
}

void CpuDevice::align_row(const Tensors& sae, std::int64_t b, const float* residual, DecodeSums& sums) const {
    const Alignment a = sae.transcoder ? kernels_.align(output_row(b), no_bias_.data(), residual, n_)
                                       : kernels_.align(xc(b), sae.b_dec.data(), residual, n_);
    const float square = a.xx * a.hh;
    sums.cosine = square > 0 ? a.xh / std::sqrt(square) : 0;
    sums.inner = a.xh;
    sums.x_hat_square = a.hh;
}

// Calls pair(row, entry, R . d) for the entries of `pairs` that `wanted(row, entry)`.
template <typename Wanted, typename Pair>
void CpuDevice::for_each_dot(const PairsByRow& pairs, const Tensors& sae, const Wanted& wanted,
                             const Pair& pair) {
    const CodeTable& main = table(CodeSet::main);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t b = first_row_; b < last_row_; ++b) {
        const auto r = static_cast<std::size_t>(b);
        Scratch& mine = scratch_[static_cast<std::size_t>(omp_get_thread_num())];
        std::uint32_t e = pairs.begin[r];
        for (std::int64_t g = 0; g < sae.groups() && e < pairs.begin[r + 1]; ++g) {
            mine.order.clear();
            mine.selected.clear();
            const std::uint32_t first = e;
            for (; e < pairs.begin[r + 1] && pairs.latent[e] < static_cast<std::uint64_t>(sae.group_end(g));
                 ++e)
                if (wanted(r, e)) mine.order.push_back(pairs.latent[e]);
            if (mine.order.empty()) continue;
            mine.row.resize(static_cast<std::size_t>(n_));
            main.residual[static_cast<std::size_t>(g)].load(b, mine.row.data());
            mine.selected.resize(mine.order.size());
            kernels_.dots(mine.row.data(), sae.w_dec.data(), mine.order.data(), std::ssize(mine.order), n_,
                          mine.selected.data());
            std::size_t at = 0;
            for (std::uint32_t i = first; i < e; ++i)
                if (wanted(r, i)) pair(r, i, mine.selected[at++]);
        }
    }
}

void CpuDevice::backprop(CodeSet set, const Tensors& sae) {
    CodeTable& codes = table(set);
    codes.gradient.grow(static_cast<std::size_t>(codes.pairs.size()));
    const float scale = table(CodeSet::main).gradient_scale;
    for_each_dot(
        codes.pairs, sae, [](std::size_t, std::uint32_t) { return true; },
        [&](std::size_t, std::uint32_t e, float dot) { codes.gradient[e] = scale * dot; });
}

void CpuDevice::weigh_squares(const Tensors& sae) {
    square_weight_.assign(static_cast<std::size_t>(sae.width), 1.0F);
    if (!sae.unit_rows) row_norms(sae.w_dec.span(), square_weight_);
    std::int64_t g = 0;
    for (std::int64_t j = 0; j < sae.width; ++j) {
        while (j >= sae.group_end(g)) ++g;
        float& weight = square_weight_[static_cast<std::size_t>(j)];
        weight *= weight * static_cast<float>(sae.groups() - g);
    }
}

std::uint64_t CpuDevice::observe(const Tensors& sae) {
    CodeTable& observed = table(CodeSet::observed);
    const CodeTable& main = table(CodeSet::main);
    const PairsByRow& pairs = observed.pairs;
    observed.gradient.grow(static_cast<std::size_t>(pairs.size()));
    weigh_squares(sae);
    const auto square = [&](std::uint32_t e) {
        return square_weight_[pairs.latent[e]] * pairs.value[e] * pairs.value[e];
    };
    // Codes that are not masked are main codes, whose gradient is known.
    std::uint64_t left_out = 0;
#pragma omp parallel for num_threads(threads_) schedule(static) reduction(+ : left_out)
    for (std::int64_t b = first_row_; b < last_row_; ++b) {
        const auto r = static_cast<std::size_t>(b);
        std::uint32_t m = main.pairs.begin[r];
        for (std::uint32_t e = pairs.begin[r]; e < pairs.begin[r + 1]; ++e) {
            if (masked(r, pairs.latent[e])) {
                ++left_out;
                continue;
            }
            while (main.pairs.latent[m] < pairs.latent[e]) ++m;
            observed.gradient[e] =
                change_without(pairs.value[e], main.gradient[m], main.gradient_scale, square(e), false);
        }
    }
    for_each_dot(
        pairs, sae, [&](std::size_t r, std::uint32_t e) { return masked(r, pairs.latent[e]); },
        [&](std::size_t, std::uint32_t e, float dot) {
            observed.gradient[e] = change_without(pairs.value[e], dot, 1, square(e), true);
        });
    return left_out;
}

// Adds the columns of some rows to sums [n]: groups of rows, added in order.
void CpuDevice::add_columns(const TileView& tiles, Slice rows, std::span<double> sums) {
    const std::int64_t groups = (rows.last - rows.first + row_group - 1) / row_group;
    const std::int64_t padded = tiles.count() * tiles.width;
    partial_.grow(std::max(static_cast<std::size_t>(groups * padded), partial_.size()));
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t g = 0; g < groups; ++g) {
        double* own = partial_.data() + g * padded;
        std::fill_n(own, padded, 0.0);
        const std::int64_t first = rows.first + g * row_group, last = std::min(first + row_group, rows.last);
        for (std::int64_t t = 0; t < tiles.count(); ++t)
            for (std::int64_t b = first; b < last; ++b)
                for (std::int64_t c = 0; c < tiles.width; ++c) own[t * tiles.width + c] += tiles.at(t, b)[c];
    }
    for (std::int64_t g = 0; g < groups; ++g)
        for (std::int64_t c = 0; c < n_; ++c)
            sums[static_cast<std::size_t>(c)] += partial_[static_cast<std::size_t>(g * padded + c)];
}

void CpuDevice::add_residual_columns(const Tensors& sae, std::span<double> sums) {
    add_columns(table(CodeSet::main).residual[static_cast<std::size_t>(sae.groups() - 1)],
                {first_row_, last_row_}, sums);
}

double CpuDevice::output_columns(const Tensors& sae, std::span<double> sums) {
    std::ranges::fill(sums, 0);
    double square = 0;
    if (sae.transcoder) {
        for (std::int64_t b = 0; b < rows_; ++b) {
            const float* row = output_row(b);
            for (std::int64_t c = 0; c < n_; ++c) sums[static_cast<std::size_t>(c)] += row[c];
            square += kernels_.dot(row, row, n_);
        }
        return square;
    }
    add_columns(centered_tiles_, {0, rows_}, sums);
    double bias_square = 0;
    double cross = 0;
    for (std::int64_t c = 0; c < n_; ++c) {
        const double bias = sae.b_dec.data()[c];
        double& sum = sums[static_cast<std::size_t>(c)];
        bias_square += bias * bias;
        cross += bias * sum;
        sum += static_cast<double>(rows_) * bias;
    }
    for (std::int64_t b = 0; b < rows_; ++b) {
        const double norm = centered_norm_[static_cast<std::size_t>(b)];
        square += norm * norm;
    }
    return square + 2 * cross + static_cast<double>(rows_) * bias_square;
}

void CpuDevice::residual_norms(std::vector<float>& norms) {
    norms.resize(static_cast<std::size_t>(rows_));
    for (std::size_t b = 0; b < norms.size(); ++b)
        norms[b] = static_cast<float>(std::sqrt(row_sums_[b].squared_error));
}

void CpuDevice::centered_row(std::int64_t b, std::span<float> row) {
    std::copy_n(xc(b), n_, row.begin());
}

}  // namespace strata::device
