// Screening. The product xc . W_enc^T is made in blocks of rows by columns small enough to stay in cache,
// scanned there, and never stored. What survives is rescored by kernels_.dots, one fixed summation order.
//
// Rounding: a float32 product of any summation order differs from the exact sum by at most n u / (1 - n u)
// |x| |w|, u = 2^-24; so the block product and the rescored value differ by at most twice that, and adding
// the bias rounds each once more, by u |z|. rounding_of() rounds up.

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "device/cpu/cpu_device.h"
#include "device/cpu/product.h"

namespace strata::device {
namespace {

constexpr std::int64_t block_columns = 384;
constexpr std::int64_t most_block_rows = 512;  // x 384 columns x 4 bytes = 768 KiB, within a core's L2

template <typename T>
void ensure(std::vector<T>& v, std::int64_t size) {
    if (static_cast<std::int64_t>(v.size()) < size)
        v.resize(static_cast<std::size_t>(std::max(size, 2 * std::ssize(v))));
}

}  // namespace

// Rows of a block: enough blocks to share among the threads, and at most what keeps a block in cache.
std::int64_t CpuDevice::block_rows(std::int64_t bytes_per_row) const {
    const std::int64_t parts = 4 * static_cast<std::int64_t>(threads_);
    const std::int64_t share = (rows_ + parts - 1) / parts;
    const std::int64_t cached =
        std::max<std::int64_t>(8, (std::int64_t{1} << 21) / std::max<std::int64_t>(bytes_per_row, 1));
    return std::clamp<std::int64_t>(share, 32, std::min(most_block_rows, std::max<std::int64_t>(32, cached)));
}

Rounding CpuDevice::rounding_of(const Tensors& sae, std::span<const float> at_least) const {
    float square = 0;
    float bias = 0;
#pragma omp parallel for num_threads(threads_) schedule(static) reduction(max : square, bias)
    for (std::int64_t j = 0; j < sae.width; ++j) {
        const float* w = sae.w_enc.data() + j * n_;
        square = std::max(square, kernels_.dot(w, w, n_));
        const float limit = at_least.size() > 1 ? at_least[static_cast<std::size_t>(j)] : 0.0F;
        bias = std::max(bias, std::abs(sae.b_enc.data()[j]) + (std::isfinite(limit) ? limit : 0.0F));
    }
    return {(2.5F * static_cast<float>(n_) + 12.0F) * 0x1p-24F * std::sqrt(square), 4 * 0x1p-24F * bias};
}

bool CpuDevice::screen_above(const Tensors& sae, std::span<const float> at_least, std::int64_t limit) {
    STRATA_ASSERT(at_least.size() == 1 || std::ssize(at_least) == sae.width);
    const std::int64_t per_block = block_rows(0);
    const std::int64_t count = (rows_ + per_block - 1) / per_block;
    if (std::ssize(blocks_) < count) blocks_.resize(static_cast<std::size_t>(count));
    const Rounding rounding = rounding_of(sae, at_least);
    // With a limit for each latent the scan looks for z - at_least_j >= 0.
    const float* bias = sae.b_enc.data();
    if (at_least.size() > 1) {
        shifted_bias_.resize(at_least.size());
        for (std::size_t j = 0; j < at_least.size(); ++j) shifted_bias_[j] = bias[j] - at_least[j];
        bias = shifted_bias_.data();
    }
    std::atomic<std::int64_t> total = 0;
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (std::int64_t block = 0; block < count; ++block) {
        if (limit > 0 && total > limit) continue;
        const std::int64_t first = block * per_block;
        screen_block(sae, bias, block, first, std::min(per_block, rows_ - first), at_least, rounding);
        total += blocks_[static_cast<std::size_t>(block)].found;
    }
    if (limit > 0 && total > limit) return false;
    collect_candidates(per_block);
    return true;
}

void CpuDevice::screen_block(const Tensors& sae, const float* bias, std::int64_t block, std::int64_t first,
                             std::int64_t count, std::span<const float> at_least, const Rounding& rounding) {
    Scratch& mine = scratch_[static_cast<std::size_t>(omp_get_thread_num())];
    if (mine.product.size() == 0) mine.product.reset(most_block_rows * block_columns);
    RowBlock& out = blocks_[static_cast<std::size_t>(block)];
    out.count.assign(static_cast<std::size_t>(count) + 1, 0);
    const bool by_latent = at_least.size() > 1;

    std::int64_t kept = 0;
    for (std::int64_t column = 0; column < sae.width; column += block_columns) {
        const std::int64_t columns = std::min(block_columns, sae.width - column);
        multiply('N', 'T', count, columns, n_, 1, xc(first), sae.w_enc.data() + column * n_, 0,
                 mine.product.data());
        std::int64_t found = kept;
        for (std::int64_t r = 0; r < count; ++r) {
            ensure(out.latent, found + columns);
            ensure(out.value, found + columns);
            const float slack = rounding.slack(centered_norm_[static_cast<std::size_t>(first + r)]);
            const float floor = std::nextafter(-slack, 1.0F);  // z = 0 exactly is no candidate
            const std::int64_t hits = kernels_.scan(
                mine.product.data() + r * columns, bias + column, columns,
                by_latent ? -slack : std::max(at_least.front() - slack, floor),
                static_cast<std::uint32_t>(column), out.latent.data() + found, out.value.data() + found);
            ensure(out.row, found + hits);
            std::fill_n(out.row.begin() + found, hits, static_cast<std::uint32_t>(r));
            found += hits;
        }
        // The value that counts, while the block's rows and columns are in cache.
        kernels_.pair_dots(xc(first), out.row.data() + kept, sae.w_enc.data(), out.latent.data() + kept,
                           found - kept, n_, out.value.data() + kept);
        for (auto e = static_cast<std::size_t>(kept); e < static_cast<std::size_t>(found); ++e) {
            const std::uint32_t j = out.latent[e];
            const float z = out.value[e] + sae.b_enc.data()[j];
            if (!(z >= (by_latent ? at_least[j] : at_least.front()) && z > 0)) continue;
            const auto to = static_cast<std::size_t>(kept++);
            out.row[to] = out.row[e];
            out.latent[to] = j;
            out.value[to] = z;
            ++out.count[out.row[to] + 1];
        }
    }

    // By row; the sort is stable, so the latents of a row ascend.
    std::partial_sum(out.count.begin(), out.count.end(), out.count.begin());
    std::vector<std::uint32_t>& next = mine.order;
    next.assign(out.count.begin(), out.count.end());
    ensure(mine.latent, kept);
    ensure(mine.value, kept);
    for (auto e = std::size_t{0}; e < static_cast<std::size_t>(kept); ++e) {
        const std::uint32_t to = next[out.row[e]]++;
        mine.latent[to] = out.latent[e];
        mine.value[to] = out.value[e];
    }
    std::copy_n(mine.latent.begin(), kept, out.latent.begin());
    std::copy_n(mine.value.begin(), kept, out.value.begin());
    out.found = kept;
}

void CpuDevice::screen_row_top(const Tensors& sae, std::int64_t k, std::span<const std::uint32_t> subset) {
    const std::int64_t per_block = block_rows((4 * k + block_columns) * 8);
    const std::int64_t count = (rows_ + per_block - 1) / per_block;
    if (std::ssize(blocks_) < count) blocks_.resize(static_cast<std::size_t>(count));
    const Rounding rounding = rounding_of(sae, {});
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (std::int64_t block = 0; block < count; ++block) {
        const std::int64_t first = block * per_block;
        top_block(sae, k, subset, block, first, std::min(per_block, rows_ - first), rounding);
    }
    collect_candidates(per_block);
}

namespace {

// The candidates of one row while its columns go by: those that may still be among the k largest, or among
// the k largest of those that are not masked, whose limit is the lower one.
struct RowList {
    std::uint32_t* latent;
    float* value;
    std::int64_t& used;
    float& limit;       // of all
    float& open_limit;  // of those not masked; the same without a mask
};

// The `k`-th largest of `values`, which it reorders; -infinity if there are fewer.
float largest(std::vector<float>& values, std::int64_t k) {
    if (std::ssize(values) < k) return -std::numeric_limits<float>::infinity();
    std::nth_element(values.begin(), values.begin() + (k - 1), values.end(), std::greater<>());
    return values[static_cast<std::size_t>(k - 1)];
}

// Drops what is certainly in neither: each value is within `slack` of the one that counts.
template <typename Masked>
void drop_certain(RowList list, std::int64_t k, float slack, const Masked& masked, bool with_mask,
                  std::vector<float>& selected) {
    selected.assign(list.value, list.value + list.used);
    list.limit = std::max(list.limit, largest(selected, k) - 2 * slack);
    if (with_mask) {
        selected.clear();
        for (std::int64_t e = 0; e < list.used; ++e)
            if (!masked(list.latent[e])) selected.push_back(list.value[e]);
        list.open_limit = std::max(list.open_limit, largest(selected, k) - 2 * slack);
    } else {
        list.open_limit = list.limit;
    }
    std::int64_t kept = 0;
    for (std::int64_t e = 0; e < list.used; ++e) {
        if (list.value[e] < list.open_limit) continue;
        if (with_mask && list.value[e] < list.limit && masked(list.latent[e])) continue;
        list.latent[kept] = list.latent[e];
        list.value[kept++] = list.value[e];
    }
    list.used = kept;
}

}  // namespace

void CpuDevice::top_block(const Tensors& sae, std::int64_t k, std::span<const std::uint32_t> subset,
                          std::int64_t block, std::int64_t first, std::int64_t count,
                          const Rounding& rounding) {
    Scratch& mine = scratch_[static_cast<std::size_t>(omp_get_thread_num())];
    if (mine.product.size() == 0) mine.product.reset(most_block_rows * block_columns);
    const std::int64_t capacity = 4 * k + block_columns;
    ensure(mine.latent, count * capacity);
    ensure(mine.value, count * capacity);
    mine.used.assign(static_cast<std::size_t>(count), 0);
    mine.limit.resize(static_cast<std::size_t>(count));
    mine.open_limit.resize(static_cast<std::size_t>(count));
    const bool with_mask = !mask_.empty() && subset.empty();

    const auto slack_of = [&](std::int64_t r) {
        return rounding.slack(centered_norm_[static_cast<std::size_t>(first + r)]);
    };
    const auto list_of = [&](std::int64_t r) {
        const auto i = static_cast<std::size_t>(r);
        return RowList{mine.latent.data() + r * capacity, mine.value.data() + r * capacity, mine.used[i],
                       mine.limit[i], mine.open_limit[i]};
    };
    const auto masked_in = [&](std::int64_t r) {
        return [this, row = static_cast<std::size_t>(first + r)](std::uint32_t j) { return masked(row, j); };
    };
    for (std::int64_t r = 0; r < count; ++r)
        mine.limit[static_cast<std::size_t>(r)] = mine.open_limit[static_cast<std::size_t>(r)] =
            std::nextafter(-slack_of(r), 1.0F);

    // The k best by the value that counts, ties to the lower latent, and the k best of those not masked; the
    // list then ascends by latent.
    const auto settle = [&](std::int64_t r) {
        const RowList list = list_of(r);
        std::vector<float>& exact = mine.selected;
        exact.resize(static_cast<std::size_t>(list.used));
        kernels_.dots(xc(first + r), sae.w_enc.data(), list.latent, list.used, n_, exact.data());
        std::vector<std::uint32_t>& order = mine.order;
        order.clear();
        for (std::int64_t e = 0; e < list.used; ++e) {
            list.value[e] = exact[static_cast<std::size_t>(e)] + sae.b_enc.data()[list.latent[e]];
            if (list.value[e] > 0) order.push_back(static_cast<std::uint32_t>(e));
        }
        const auto better = [&](std::uint32_t a, std::uint32_t b) {
            return list.value[a] != list.value[b] ? list.value[a] > list.value[b]
                                                  : list.latent[a] < list.latent[b];
        };
        // Leaves the best in front; returns the end of them.
        const auto best = [&](std::vector<std::uint32_t>::iterator begin, float& limit) {
            if (order.end() - begin <= k) return order.end();
            std::nth_element(begin, begin + (k - 1), order.end(), better);
            limit = std::max(limit, list.value[begin[k - 1]] - slack_of(r));
            return begin + k;
        };
        const auto end = best(order.begin(), list.limit);
        if (with_mask) {
            // Of the best k of all, those not masked count among the best k that are not masked.
            const auto masked = masked_in(r);
            const auto open =
                std::partition(order.begin(), end, [&](std::uint32_t e) { return masked(list.latent[e]); });
            const auto rest =
                std::partition(end, order.end(), [&](std::uint32_t e) { return !masked(list.latent[e]); });
            order.erase(rest, order.end());
            order.erase(best(open, list.open_limit), order.end());
        } else {
            list.open_limit = list.limit;
            order.erase(end, order.end());
        }
        std::ranges::sort(order, {}, [&](std::uint32_t e) { return list.latent[e]; });
        // `order` may point back and forth, so gather before storing.
        exact.clear();
        for (std::uint32_t& e : order) {
            exact.push_back(list.value[e]);
            e = list.latent[e];
        }
        std::ranges::copy(order, list.latent);
        std::ranges::copy(exact, list.value);
        list.used = std::ssize(order);
    };

    const std::int64_t width = subset.empty() ? sae.width : std::ssize(subset);
    for (std::int64_t column = 0; column < width; column += block_columns) {
        const std::int64_t columns = std::min(block_columns, width - column);
        const float* weights = sae.w_enc.data() + column * n_;
        const float* bias = sae.b_enc.data() + column;
        if (!subset.empty()) {
            if (static_cast<std::int64_t>(mine.weights.size()) < block_columns * n_)
                mine.weights.reset(block_columns * n_);
            mine.bias.resize(block_columns);
            for (std::int64_t c = 0; c < columns; ++c) {
                const std::uint32_t j = subset[static_cast<std::size_t>(column + c)];
                std::copy_n(sae.w_enc.data() + j * n_, n_, mine.weights.data() + c * n_);
                mine.bias[static_cast<std::size_t>(c)] = sae.b_enc.data()[j];
            }
            weights = mine.weights.data();
            bias = mine.bias.data();
        }
        multiply('N', 'T', count, columns, n_, 1, xc(first), weights, 0, mine.product.data());
        for (std::int64_t r = 0; r < count; ++r) {
            const RowList list = list_of(r);
            const std::int64_t before = list.used;
            list.used +=
                kernels_.scan(mine.product.data() + r * columns, bias, columns, list.open_limit,
                              static_cast<std::uint32_t>(column), list.latent + before, list.value + before);
            if (!subset.empty())
                for (std::int64_t e = before; e < list.used; ++e)
                    list.latent[e] = subset[static_cast<std::size_t>(list.latent[e])];
            if (list.used > 3 * k) drop_certain(list, k, slack_of(r), masked_in(r), with_mask, mine.selected);
            if (list.used > 4 * k) settle(r);  // a crowd of near-equal values; 2 k at most remain
        }
    }

    RowBlock& out = blocks_[static_cast<std::size_t>(block)];
    out.count.assign(static_cast<std::size_t>(count) + 1, 0);
    ensure(out.latent, count * (with_mask ? 2 * k : k));
    ensure(out.value, count * (with_mask ? 2 * k : k));
    std::int64_t found = 0;
    for (std::int64_t r = 0; r < count; ++r) {
        settle(r);
        const RowList list = list_of(r);
        std::copy_n(list.latent, list.used, out.latent.begin() + found);
        std::copy_n(list.value, list.used, out.value.begin() + found);
        found += list.used;
        out.count[static_cast<std::size_t>(r) + 1] = static_cast<std::uint32_t>(found);
    }
    out.found = found;
}

// Joins the blocks' candidates; out.count holds each block's row offsets.
void CpuDevice::collect_candidates(std::int64_t rows_per_block) {
    const std::int64_t count = (rows_ + rows_per_block - 1) / rows_per_block;
    std::vector<std::int64_t> start(static_cast<std::size_t>(count) + 1, 0);
    for (std::int64_t i = 0; i < count; ++i)
        start[static_cast<std::size_t>(i) + 1] =
            start[static_cast<std::size_t>(i)] + blocks_[static_cast<std::size_t>(i)].found;
    const std::int64_t total = start.back();
    if (total > std::numeric_limits<std::uint32_t>::max())
        fail("{} candidates in one batch of {} rows; reduce k or train.batch_size", total, rows_);
    candidates_.latent.grow(static_cast<std::size_t>(total));
    candidates_.value.grow(static_cast<std::size_t>(total));
    candidates_.begin.resize(static_cast<std::size_t>(rows_) + 1);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t i = 0; i < count; ++i) {
        const RowBlock& block = blocks_[static_cast<std::size_t>(i)];
        const std::int64_t at = start[static_cast<std::size_t>(i)];
        std::copy_n(block.latent.begin(), block.found, candidates_.latent.data() + at);
        std::copy_n(block.value.begin(), block.found, candidates_.value.data() + at);
        for (std::size_t r = 0; r + 1 < block.count.size(); ++r)
            candidates_.begin[static_cast<std::size_t>(i * rows_per_block) + r] =
                static_cast<std::uint32_t>(at) + block.count[r];
    }
    candidates_.begin[static_cast<std::size_t>(rows_)] = static_cast<std::uint32_t>(total);
}

void CpuDevice::pre_activation_histogram(const Tensors& sae, std::int64_t rows,
                                         std::span<std::uint64_t> counts) {
    std::ranges::fill(counts, 0);
    rows = std::min(rows, rows_);
    const std::int64_t per_block = std::min(block_rows(0), (rows + threads_ - 1) / threads_);
    const std::int64_t blocks = rows == 0 ? 0 : (rows + per_block - 1) / per_block;
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (std::int64_t block = 0; block < blocks; ++block) {
        Scratch& mine = scratch_[static_cast<std::size_t>(omp_get_thread_num())];
        if (mine.product.size() == 0) mine.product.reset(most_block_rows * block_columns);
        const std::int64_t first = block * per_block;
        const std::int64_t count = std::min(per_block, rows - first);
        mine.selected.resize(static_cast<std::size_t>(count * n_));
        for (std::int64_t r = 0; r < count; ++r)
            std::copy_n(xc((first + r) * rows_ / rows), n_, mine.selected.begin() + r * n_);
        std::vector<std::uint64_t> own(counts.size(), 0);
        for (std::int64_t column = 0; column < sae.width; column += block_columns) {
            const std::int64_t columns = std::min(block_columns, sae.width - column);
            multiply('N', 'T', count, columns, n_, 1, mine.selected.data(), sae.w_enc.data() + column * n_, 0,
                     mine.product.data());
            for (std::int64_t i = 0; i < count * columns; ++i) {
                const float z =
                    mine.product[static_cast<std::size_t>(i)] + sae.b_enc.data()[column + i % columns];
                if (z > 0) ++own[std::bit_cast<std::uint32_t>(z) >> 20];
            }
        }
#pragma omp critical
        for (std::size_t i = 0; i < own.size(); ++i) counts[i] += own[i];
    }
}

}  // namespace strata::device
