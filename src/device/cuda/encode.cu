// Screening. The product xc . W_enc^T is made tile by tile, small enough for the L2 cache, and scanned there
// by the next kernel: what may pass goes on the list of its row, in order of latents. What is on the lists is
// rescored by the dot product whose value counts; that alone decides. No sorting and no atomics: a row's list
// has one writer.
//
// How far a product may be from the value that counts, u = 2^-24: the operands' rounding, and what sums of
// any order lose. By Cauchy-Schwarz, x~ and w~ the operands as the product takes them,
//   |x.w - x~.w~| <= |x - x~| |w| + |x~| |w - w~| .
// bfloat16 operands are made here, and their errors measured. TF32 may truncate to 10 bits of the mantissa:
// 2^-9 |x| |w| for both. Sums: float32 with rounding to nearest loses at most n u of the norms, the dot
// product that counts no more; tensor cores may truncate each partial sum, 2^-23 of it.

#include <algorithm>
#include <bit>

#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"
#include "device/cuda/filter.h"
#include "device/cuda/scan.h"

namespace strata::device {
namespace cuda {

// Lists of rows, whose latents are numbers of `w_enc`'s rows.
struct Lists {
    std::uint32_t* latent;
    float* value;
    const std::uint32_t* used;
    std::int64_t room;
    const float* w_enc;
    const float* b_enc;
    const float* at_least;
    bool one_limit;
    const std::uint32_t* names;
};

// The value that counts, or -1 where the pair does not pass; a warp to a pair, blockIdx.y shares a row's
// list. 8 n bytes and 2 n operations a pair.
__global__ void __launch_bounds__(block_threads, most_blocks)
    rescore(Lists lists, const float* xc, std::int64_t n) {
    const std::int64_t r = blockIdx.x;
    const std::int64_t used = lists.used[r] < lists.room ? lists.used[r] : lists.room;
    for (std::int64_t e = blockIdx.y * block_warps + warp(); e < used; e += gridDim.y * block_warps) {
        const std::uint32_t j = lists.latent[r * lists.room + e];
        const float z =
            warp_dot(xc + r * n, lists.w_enc + static_cast<std::int64_t>(j) * n, n) + lists.b_enc[j];
        const float limit = lists.at_least == nullptr ? 0.0F
                            : lists.one_limit         ? lists.at_least[0]
                                                      : lists.at_least[j];
        if (lane() == 0) lists.value[r * lists.room + e] = z >= limit && z > 0 ? z : -1.0F;
    }
}

// How many of a row's list pass; a block to a row. counters[0] gets the longest list.
__global__ void count_lists(Lists lists, std::uint32_t* counts, unsigned long long* counters) {
    auto* scratch = reinterpret_cast<unsigned*>(strata_shared);
    const std::int64_t r = blockIdx.x;
    const std::uint32_t used = lists.used[r];
    unsigned passing = 0;
    for (std::int64_t e = threadIdx.x; e < used && e < lists.room; e += blockDim.x)
        passing += lists.value[r * lists.room + e] > 0;
    passing = block_sum(passing, scratch);
    if (threadIdx.x != 0) return;
    counts[r] = passing;
    atomicMax(&counters[0], static_cast<unsigned long long>(used));
}

constexpr unsigned scan_threads = 1024;

// begin[0] is there; the rest follow from the counts of `rows` rows. One block. counters[1] gets the total,
// which may be more than 32 bits hold.
__global__ void scan_in_block(const std::uint32_t* counts, std::int64_t rows, std::uint32_t* begin,
                              unsigned long long* counters) {
    auto* scratch = reinterpret_cast<unsigned*>(strata_shared);
    std::uint32_t base = begin[0];
    unsigned long long total = 0;
    for (std::int64_t start = 0; start < rows; start += blockDim.x) {
        const std::int64_t r = start + threadIdx.x;
        const unsigned own = r < rows ? counts[r] : 0;
        const unsigned sum = sum_up_to(own);
        __syncthreads();
        if (lane() == 31) scratch[warp()] = sum;
        __syncthreads();
        unsigned before = 0, all = 0;
        for (unsigned w = 0; w < blockDim.x / 32; ++w) {
            if (w < warp()) before += scratch[w];
            all += scratch[w];
        }
        if (r < rows) begin[r + 1] = base + before + sum;
        base += all;
        total += all;
    }
    if (threadIdx.x == 0 && counters != nullptr) counters[1] += total;
}

// Moves what passes behind the row's begin, as far as there is room; a block to a row.
__global__ void collect_lists(Lists lists, std::int64_t first_row, const std::uint32_t* begin,
                              std::int64_t room, std::uint32_t* row, std::uint32_t* latent, float* value) {
    auto* scratch = reinterpret_cast<unsigned*>(strata_shared);
    const std::int64_t r = blockIdx.x;
    const std::int64_t used = lists.used[r] < lists.room ? lists.used[r] : lists.room;
    std::int64_t at = begin[r];
    for (std::int64_t start = 0; start < used; start += blockDim.x) {
        const std::int64_t e = start + threadIdx.x;
        const float z = e < used ? lists.value[r * lists.room + e] : -1.0F;
        const Place place = block_place(z > 0, scratch);
        const std::int64_t to = at + place.before;
        if (z > 0 && to < room) {
            const std::uint32_t j = lists.latent[r * lists.room + e];
            row[to] = static_cast<std::uint32_t>(first_row + r);
            latent[to] = lists.names == nullptr ? j : lists.names[j];
            value[to] = z;
        }
        at += place.total;
    }
}

__global__ void repeat_last(std::uint32_t* begin, std::int64_t count) {
    const std::int64_t i = global_thread();
    if (i < count) begin[i + 1] = begin[0];
}

void scan_counts(const std::uint32_t* counts, std::int64_t rows, std::uint32_t* begin,
                 unsigned long long* counters, cudaStream_t stream) {
    launch("scan_in_block", scan_in_block, 1, scan_threads, scan_threads / 32 * sizeof(unsigned), stream,
           counts, rows, begin, counters);
}

// Rows of a tile begin at multiples of 64 bytes, whatever its columns: some products need that.
constexpr std::int64_t tile_stride(std::int64_t latents) {
    return (latents + 15) / 16 * 16;
}

}  // namespace cuda

using namespace cuda;

void CudaDevice::multiply_tile(const Screen& screen, std::int64_t first, std::int64_t rows,
                               std::int64_t column, std::int64_t columns, std::int64_t stride) {
    if (format_ == Format::bf16)
        product_.multiply(rows, columns, n_, 1, {row_of(half_rows_, first), n_},
                          {half_weights_.data() + column * n_, n_, true}, 0, product_tile_.data(), stride,
                          stream_);
    else
        product_.multiply(rows, columns, n_, 1, {row_of(centered_, first), n_},
                          {screen.w_enc + column * n_, n_, true}, 0, product_tile_.data(), stride, stream_,
                          format_);
}

// All rows of the range, into candidates_; with too little room what does not fit is counted only. Returns
// how many pass; `longest` gets the longest list.
std::uint64_t CudaDevice::screen_rows_once(const Screen& screen, std::uint32_t& longest) {
    // Where lists are long, as at the first steps by lists, of fewer rows at a time.
    const std::int64_t tile_rows = std::min({tile_.rows, room_, last_row_ - first_row_,
                                             std::max<std::int64_t>(1, most_listed / list_room_)}),
                       tile_latents = std::min(tile_.latents, screen.latents);
    product_tile_.grow(tile_rows * tile_stride(tile_latents));
    list_latent_.grow(tile_rows * list_room_, most_listed);
    list_value_.grow(tile_rows * list_room_, most_listed);
    list_used_.grow(tile_rows);
    row_limit_.grow(tile_rows);
    open_limit_.grow(tile_rows);
    const auto queue = [&] { queue_tiles(screen, tile_rows, tile_latents); };
    const bool all_loaded = loaded_.first == 0 && loaded_.last == rows_;
    if (screen.names != nullptr || !all_loaded)  // other latents, and so many, at every step; or other rows
        queue();
    else
        graphs_.run(Graphs::key_of(screen.at_least.data(), screen.at_least.size(), screen.k, screen.with_mask,
                                   screen.w_enc, screen.b_enc, screen.latents, n_, rows_, first_row_,
                                   last_row_, list_room_, candidates_.begin.data(), candidates_.row.data(),
                                   candidates_.latent.data(), candidates_.value.data()),
                    stream_, queue);
    unsigned long long counters[2] = {};
    cuda::download(counters_.data(), std::span<unsigned long long>(counters), stream_,
                   "the number of candidates");
    longest = static_cast<std::uint32_t>(counters[0]);
    return counters[1];
}

void CudaDevice::queue_tiles(const Screen& screen, std::int64_t tile_rows, std::int64_t tile_latents) {
    const std::int64_t stride = tile_stride(tile_latents);
    fill_zero(counters_.data(), 2, stream_, "counters");
    fill_zero(candidates_.begin.data(), rows_ + 1, stream_, "the candidates");
    const bool one_limit = screen.at_least.size() == 1;
    const float* at_least = screen.at_least.empty() ? nullptr : screen.at_least.data();
    for (std::int64_t first = first_row_; first < last_row_; first += tile_rows) {
        const std::int64_t rows = std::min(tile_rows, last_row_ - first);
        const auto blocks = static_cast<unsigned>(rows);
        hold({first, first + rows});
        fill_zero(list_used_.data(), rows, stream_, "the lists");
        if (screen.k > 0) start_limits(rows);
        for (std::int64_t column = 0; column < screen.latents; column += tile_latents) {
            const std::int64_t columns = std::min(tile_latents, screen.latents - column);
            multiply_tile(screen, first, rows, column, columns, stride);
            scan_tile({.tile = product_tile_.data(),
                       .rows = rows,
                       .stride = stride,
                       .columns = columns,
                       .first_latent = column,
                       .bias = screen.b_enc + column,
                       .latent_errors = latent_errors_.data() + column,
                       .at_least = at_least == nullptr || one_limit ? at_least : at_least + column,
                       .one_limit = one_limit,
                       .row_errors = row_errors_.data() + (first - loaded_.first),
                       .row_limit = screen.k > 0 ? open_limit_.data() : nullptr,
                       .list_latent = list_latent_.data(),
                       .list_value = list_value_.data(),
                       .used = list_used_.data(),
                       .room = list_room_},
                      stream_);
            // From one power of two to the next about k more pairs pass a limit that stays.
            const auto tile = static_cast<std::uint64_t>(column / tile_latents + 1);
            if (screen.k > 0 && (std::has_single_bit(tile) || column + columns == screen.latents))
                prune_lists(screen, first, rows);
        }
        const Lists lists{list_latent_.data(), list_value_.data(), list_used_.data(), list_room_,
                          screen.w_enc,        screen.b_enc,       at_least,          one_limit,
                          screen.names};
        launch("rescore", rescore, dim3(blocks, 4), block_threads, 0, stream_, lists,
               row_of(centered_, first), n_);
        constexpr std::size_t scratch = block_warps * sizeof(unsigned);
        std::uint32_t* begin = candidates_.begin.data() + first;
        launch("count_lists", count_lists, blocks, block_threads, scratch, stream_, lists, row_counts_.data(),
               counters_.data());
        scan_counts(row_counts_.data(), rows, begin, counters_.data(), stream_);
        launch("collect_lists", collect_lists, blocks, block_threads, scratch, stream_, lists, first, begin,
               candidates_.value.size(), candidates_.row.data(), candidates_.latent.data(),
               candidates_.value.data());
    }
    // Rows behind the range have no candidates.
    launch("repeat_last", repeat_last, blocks_of(rows_ - last_row_, block_threads), block_threads, 0, stream_,
           candidates_.begin.data() + last_row_, rows_ - last_row_);
}

}  // namespace strata::device
