// Screening. The product xc . W_enc^T is made in blocks of rows by columns small enough to stay in cache,
// scanned there, and never stored: in float32, or in integers with a bound on their error (screen.h). What
// survives is rescored by kernels_.dots, one fixed summation order, so the two give the same.
//
// Rounding in float32: a float32 product of any summation order differs from the exact sum by at most n u /
// (1 - n u) |x| |w|, u = 2^-24; so the block product and the rescored value differ by at most twice that, and
// adding the bias rounds each once more, by u |z|. rounding_of() rounds up.

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "device/cpu/cpu_device.h"
#include "device/cpu/product.h"

namespace strata::device {
namespace {

constexpr std::int64_t retry_calls = 1024;  // after which the encoder that lost is timed again

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

// Rows of a block: enough blocks to share among the threads, and at most what keeps a block in cache; whole
// tiles of the integer product.
std::int64_t CpuDevice::block_rows(std::int64_t bytes_per_row, bool screened) const {
    if (screened) {
        const std::int64_t tile = screen_.kernels->tile_rows;
        return std::max(tile, block_rows(bytes_per_row, false) / tile * tile);
    }
    const std::int64_t parts = 4 * static_cast<std::int64_t>(threads_);
    const std::int64_t share = (last_row_ - first_row_ + parts - 1) / parts;
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
    const Encoding encoding = start_encoding(sae, sae, at_least, false);
    const std::int64_t per_block = block_rows(0, encoding.screened);
    const std::int64_t count = (last_row_ - first_row_ + per_block - 1) / per_block;
    if (std::ssize(blocks_) < count) blocks_.resize(static_cast<std::size_t>(count));
    const Rounding rounding = encoding.screened ? Rounding{} : rounding_of(sae, at_least);
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
        const std::int64_t first = first_row_ + block * per_block;
        screen_block(sae, bias, block, first, std::min(per_block, last_row_ - first), at_least, rounding,
                     encoding.screened);
        total += blocks_[static_cast<std::size_t>(block)].found;
    }
    if (limit > 0 && total > limit) return false;
    collect_candidates(per_block);
    finish_encoding(sae, encoding);
    return true;
}

// Which product: the one that was faster so far, both timed twice before.
bool CpuDevice::wants_screen(const EncoderTimes& times) const {
    if (options_.encoder == "screened") return true;
    return times.calls < 4 ? times.calls % 2 == 1 : times.choice != (times.calls % retry_calls == 0);
}

// Rows or weights that the integers cannot hold, not finite ones, go to float32.
CpuDevice::Encoding CpuDevice::start_encoding(const Tensors& sae, const Tensors& encoders,
                                              std::span<const float> at_least, bool by_row) {
    Encoding encoding{.start = seconds()};
    if (screen_.kernels == nullptr || options_.encoder == "float32") return encoding;
    const bool screened = wants_screen(encoder_times_[sae.w_enc.data()]);
    encoding.screened =
        screened && prepare_screen(screen_, encoders, batch_,
                                   std::span(centered_norm_).first(static_cast<std::size_t>(rows_)), at_least,
                                   by_row, threads_);
    encoding.timed = encoding.screened == screened;
    if (!encoding.timed && !std::exchange(encoder_times_[sae.w_enc.data()].refused, true))
        log::warn(
            "encoder of {} latents: a row, weight or bias is not finite, or too large for integers; such "
            "batches are encoded by the float32 product",
            sae.width);
    return encoding;
}

void CpuDevice::finish_encoding(const Tensors& sae, const Encoding& encoding) {
    EncoderTimes& times = encoder_times_[sae.w_enc.data()];
    if (encoding.timed && options_.encoder == "auto") time_encoding(sae, encoding, times);
    if (sae.encoder.size == 0 || times.wanted == wants_screen(times)) return;
    times.wanted = !times.wanted;
    shared_latents(screen_, sae).header->wanted += times.wanted ? 1U : ~0U;
}

void CpuDevice::time_encoding(const Tensors& sae, const Encoding& encoding, EncoderTimes& times) const {
    double& mine = encoding.screened ? times.screened : times.float32;
    const double taken =
        (seconds() - encoding.start) / static_cast<double>(std::max<std::int64_t>(1, last_row_ - first_row_));
    mine = times.calls < 4 ? std::min(mine, taken) : 0.9 * mine + 0.1 * taken;
    ++times.calls;
    // What is a little slower stays the choice: times vary from call to call.
    const double favour = times.calls == 4 ? 1 : 0.9;
    const bool now =
        times.choice ? times.float32 >= favour * times.screened : times.screened < favour * times.float32;
    const double per_batch = 1e3 * static_cast<double>(rows_);
    if (times.calls == 4 || (times.calls > 4 && now != times.choice))
        log::info("encoder of {} latents: {} takes {:.1f} ms for {} rows, {} {:.1f} ms", sae.width,
                  now ? "the screened integer product" : "the float32 product",
                  per_batch * (now ? times.screened : times.float32), rows_,
                  now ? "the float32 product" : "the screened one",
                  per_batch * (now ? times.float32 : times.screened));
    times.choice = now;
}

// Lists the pairs of a block of rows and of some latents that may pass; returns their number.
std::int64_t CpuDevice::screen_columns(std::int64_t column, std::int64_t columns, std::int64_t first,
                                       std::int64_t count, PairList& found) {
    const std::int64_t tile_rows = screen_.kernels->tile_rows, tile_columns = screen_.kernels->tile_columns;
    const std::int64_t row_tiles = (count + tile_rows - 1) / tile_rows;
    std::int64_t pairs = 0;
    for (std::int64_t tile = column / tile_columns; tile * tile_columns < column + columns; ++tile) {
        found.ensure(pairs + row_tiles * tile_rows * tile_columns);
        pairs += screen_tile(screen_, first / tile_rows, row_tiles, tile, found.row.data() + pairs,
                             found.latent.data() + pairs, found.value.data() + pairs);
    }
    return pairs;
}

void CpuDevice::screen_block(const Tensors& sae, const float* bias, std::int64_t block, std::int64_t first,
                             std::int64_t count, std::span<const float> at_least, const Rounding& rounding,
                             bool screened) {
    Scratch& mine = scratch_[static_cast<std::size_t>(omp_get_thread_num())];
    if (mine.product.size() == 0) mine.product.reset(most_block_rows * block_columns);
    PairList& found = mine.found;
    PairList& kept = mine.kept;
    RowBlock& out = blocks_[static_cast<std::size_t>(block)];
    out.count.assign(static_cast<std::size_t>(count) + 1, 0);
    out.found = 0;
    const bool by_latent = at_least.size() > 1;

    for (std::int64_t column = 0; column < sae.width; column += block_columns) {
        const std::int64_t columns = std::min(block_columns, sae.width - column);
        std::int64_t pairs = 0;
        if (screened)
            pairs = screen_columns(column, columns, first, count, found);
        else
            multiply('N', 'T', count, columns, n_, 1, xc(first), sae.w_enc.data() + column * n_, 0,
                     mine.product.data());
        for (std::int64_t r = 0; r < count && !screened; ++r) {
            found.ensure(pairs + columns);
            const float slack = rounding.slack(centered_norm_[static_cast<std::size_t>(first + r)]);
            const float floor = std::nextafter(-slack, 1.0F);  // z = 0 exactly is no candidate
            const std::int64_t hits = kernels_.scan(
                mine.product.data() + r * columns, bias + column, columns,
                by_latent ? -slack : std::max(at_least.front() - slack, floor),
                static_cast<std::uint32_t>(column), found.latent.data() + pairs, found.value.data() + pairs);
            std::fill_n(found.row.begin() + pairs, hits, static_cast<std::uint32_t>(r));
            pairs += hits;
        }
        // The value that counts, while the block's rows and columns are in cache.
        kernels_.pair_dots(xc(first), found.row.data(), sae.w_enc.data(), found.latent.data(), pairs, n_,
                           found.value.data());
        kept.ensure(out.found + pairs);
        for (auto e = std::size_t{0}; e < static_cast<std::size_t>(pairs); ++e) {
            const std::uint32_t j = found.latent[e];
            const float z = found.value[e] + sae.b_enc.data()[j];
            if (!(z >= (by_latent ? at_least[j] : at_least.front()) && z > 0)) continue;
            const auto to = static_cast<std::size_t>(out.found++);
            kept.row[to] = found.row[e];
            kept.latent[to] = j;
            kept.value[to] = z;
            ++out.count[found.row[e] + 1];
        }
    }

    // By row; the sort is stable, so the latents of a row ascend.
    std::partial_sum(out.count.begin(), out.count.end(), out.count.begin());
    std::vector<std::uint32_t>& next = mine.order;
    next.assign(out.count.begin(), out.count.end());
    ensure(out.latent, out.found);
    ensure(out.value, out.found);
    for (auto e = std::size_t{0}; e < static_cast<std::size_t>(out.found); ++e) {
        const std::uint32_t to = next[kept.row[e]]++;
        out.latent[to] = kept.latent[e];
        out.value[to] = kept.value[e];
    }
}

// Joins the blocks' candidates; out.count holds each block's row offsets.
void CpuDevice::collect_candidates(std::int64_t rows_per_block) {
    const std::int64_t count = (last_row_ - first_row_ + rows_per_block - 1) / rows_per_block;
    std::vector<std::int64_t> start(static_cast<std::size_t>(count) + 1, 0);
    for (std::int64_t i = 0; i < count; ++i)
        start[static_cast<std::size_t>(i) + 1] =
            start[static_cast<std::size_t>(i)] + blocks_[static_cast<std::size_t>(i)].found;
    const std::int64_t total = start.back();
    if (total > std::numeric_limits<std::uint32_t>::max())
        fail("{} candidates in one batch of {} rows; reduce k or train.batch_size", total, rows_);
    candidates_.latent.grow(static_cast<std::size_t>(total));
    candidates_.value.grow(static_cast<std::size_t>(total));
    candidates_.begin.assign(static_cast<std::size_t>(last_row_) + 1, 0);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t i = 0; i < count; ++i) {
        const RowBlock& block = blocks_[static_cast<std::size_t>(i)];
        const std::int64_t at = start[static_cast<std::size_t>(i)];
        std::copy_n(block.latent.begin(), block.found, candidates_.latent.data() + at);
        std::copy_n(block.value.begin(), block.found, candidates_.value.data() + at);
        for (std::size_t r = 0; r + 1 < block.count.size(); ++r)
            candidates_.begin[static_cast<std::size_t>(first_row_ + i * rows_per_block) + r] =
                static_cast<std::uint32_t>(at) + block.count[r];
    }
    candidates_.begin[static_cast<std::size_t>(last_row_)] = static_cast<std::uint32_t>(total);
}

void CpuDevice::pre_activation_histogram(const Tensors& sae, std::int64_t rows,
                                         std::span<std::uint64_t> counts) {
    std::ranges::fill(counts, 0);
    rows = std::min(rows, rows_);
    const std::int64_t per_block = std::min(block_rows(0, false), (rows + threads_ - 1) / threads_);
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
