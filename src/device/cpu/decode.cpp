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

DecodeSums CpuDevice::decode(CodeSet set, const Tensors& sae, float gradient_scale) {
    CodeTable& codes = table(set);
    const PairsByRow& pairs = codes.pairs;
    codes.gradient_scale = gradient_scale;
    if (codes.residual.rows != centered_tiles_.rows || codes.residual.n != n_)
        codes.residual.reset(centered_tiles_.rows, n_);
    codes.gradient.grow(static_cast<std::size_t>(pairs.size()));
    const float* b_dec = sae.b_dec.data();
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t b = 0; b < rows_; ++b) {
        const auto i = static_cast<std::size_t>(b);
        const std::uint32_t begin = pairs.begin[i];
        const std::uint32_t count = pairs.begin[i + 1] - begin;
        const std::uint32_t* latent = pairs.latent.data() + begin;
        const float* xc = centered_row(b);
        std::vector<float>& scratch = scratch_[static_cast<std::size_t>(omp_get_thread_num())].row;
        scratch.resize(static_cast<std::size_t>(n_));
        float* residual = scratch.data();
        if (set == CodeSet::main) {
            for (std::int64_t c = 0; c < n_; ++c) residual[c] = -xc[c];
        } else {
            table(CodeSet::main).residual.load(b, residual);
        }
        kernels_.add_rows(sae.w_dec.data(), latent, pairs.value.data() + begin, count, n_, residual);
        codes.residual.store(b, residual);
        if (gradient_scale != 0) {
            float* gradient = codes.gradient.data() + begin;
            kernels_.dots(residual, sae.w_dec.data(), latent, count, n_, gradient);
            for (std::uint32_t e = 0; e < count; ++e) gradient[e] *= gradient_scale;
        }
        DecodeSums& sums = row_sums_[i];
        sums = {};
        sums.squared_error = kernels_.dot(residual, residual, n_);
        sums.active = count;
        for (std::uint32_t e = 0; e < count; ++e) sums.l1 += pairs.value[begin + e];
        sums.cosine = kernels_.cosine(xc, b_dec, residual, n_);
    }
    DecodeSums total;
    for (std::int64_t b = 0; b < rows_; ++b) {
        const DecodeSums& s = row_sums_[static_cast<std::size_t>(b)];
        total.squared_error += s.squared_error;
        total.l1 += s.l1;
        total.cosine += s.cosine;
        total.active += s.active;
    }
    return total;
}

// Adds the columns of `rows` [B, n] to sums [n]: groups of rows, added in order.
void CpuDevice::add_columns(const Tiles& rows, std::span<double> sums) {
    const std::int64_t groups = (rows_ + row_group - 1) / row_group;
    const std::int64_t padded = rows.count() * rows.width;
    partial_.grow(std::max(static_cast<std::size_t>(groups * padded), partial_.size()));
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t g = 0; g < groups; ++g) {
        double* own = partial_.data() + g * padded;
        std::fill_n(own, padded, 0.0);
        for (std::int64_t t = 0; t < rows.count(); ++t)
            for (std::int64_t b = g * row_group; b < std::min((g + 1) * row_group, rows_); ++b)
                for (std::int64_t c = 0; c < rows.width; ++c) own[t * rows.width + c] += rows.at(t, b)[c];
    }
    for (std::int64_t g = 0; g < groups; ++g)
        for (std::int64_t c = 0; c < n_; ++c)
            sums[static_cast<std::size_t>(c)] += partial_[static_cast<std::size_t>(g * padded + c)];
}

Device::Moments CpuDevice::column_sums(const Tensors& sae, std::span<double> residual, std::span<double> x) {
    Moments moments;
    if (!residual.empty()) {
        std::ranges::fill(residual, 0);
        add_columns(table(CodeSet::main).residual, residual);
        for (std::int64_t b = 0; b < rows_; ++b)
            moments.residual_square += row_sums_[static_cast<std::size_t>(b)].squared_error;
    }
    if (!x.empty()) {
        std::ranges::fill(x, 0);
        add_columns(centered_tiles_, x);
        double bias_square = 0;
        double cross = 0;
        for (std::int64_t c = 0; c < n_; ++c) {
            const double bias = sae.b_dec.data()[c];
            double& sum = x[static_cast<std::size_t>(c)];
            bias_square += bias * bias;
            cross += bias * sum;
            sum += static_cast<double>(rows_) * bias;
        }
        for (std::int64_t b = 0; b < rows_; ++b) {
            const double norm = centered_norm_[static_cast<std::size_t>(b)];
            moments.x_square += norm * norm;
        }
        moments.x_square += 2 * cross + static_cast<double>(rows_) * bias_square;
    }
    return moments;
}

}  // namespace strata::device
