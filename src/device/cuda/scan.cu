// Which pairs of a tile may pass, once the product is there (encode.cu): the test, and the lists that rows
// keep.

#include "device/cuda/scan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "device/cuda/device_code.h"

namespace strata::device::cuda {

constexpr float most_float = std::numeric_limits<float>::max();

// What the test of a pair takes of its latent.
struct LatentTest {
    float shift;  // bias less limit, and the rounding of sums with them
    ErrorOfLatent error;
};
__device__ inline LatentTest latent_test(const Scan& s, std::int64_t j) {
    const float limit = s.at_least == nullptr ? 0.0F : s.one_limit ? s.at_least[0] : s.at_least[j];
    const float bias = s.bias[j];
    // Two sums of three numbers, here and in the value that counts.
    const float rounding = 8 * unit * (fabsf(bias) + (fabsf(limit) <= most_float ? fabsf(limit) : 0.0F));
    return {bias - limit + rounding, s.latent_errors[j]};
}

// The most that the pre-activation of the pair may be, less the latent's limit.
__device__ inline float most_of(float product, ErrorOfRow row, const LatentTest& latent) {
    return product + latent.shift + fmaf(row.off, latent.error.norm, row.norm * latent.error.off);
}

constexpr int scan_rows = 4;                           // of a block, which share what is read of the latents
constexpr unsigned words_at_once = 2, scan_words = 8;  // of 32 columns each, that a warp tests in its turns
constexpr unsigned most_scan_threads = 512;

// Appends what may pass to the rows' lists, latents ascending; counts beyond their room. A block to 4 rows:
// first all its warps look at 32 columns of the rows in turn and note, a bit to a pair, in shared memory what
// passes; then a warp to a row appends that, which is little. Reads 4 bytes of the tile and 3 to 4 of the
// latents a pair, from L2; a thread has up to 16 loads under way, which a tile out of L2 needs to take no
// longer than its bytes (4096 warps of it are there at once). Shared memory: half a byte a column.
__global__ void __launch_bounds__(most_scan_threads, 2) append_passing(Scan s) {
    auto* passing = reinterpret_cast<unsigned*>(strata_shared);  // [scan_rows, words]
    const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * scan_rows;
    const int rows = s.rows - first_row < scan_rows ? static_cast<int>(s.rows - first_row) : scan_rows;
    const unsigned last = static_cast<unsigned>(s.columns) - 1, words = last / 32 + 1,
                   warps = blockDim.x / 32;
    ErrorOfRow error[scan_rows];
    float limit[scan_rows];
    const float* tile[scan_rows];
#pragma unroll
    for (int r = 0; r < scan_rows; ++r) {
        const std::int64_t row = first_row + (r < rows ? r : 0);
        error[r] = s.row_errors[row];
        limit[r] = s.row_limit == nullptr ? 0.0F : s.row_limit[row];
        tile[r] = s.tile + row * s.stride;
    }
    for (unsigned w = words_at_once * warp(); w < words; w += words_at_once * warps) {
        float product[words_at_once][scan_rows];
        LatentTest latent[words_at_once];
#pragma unroll
        for (unsigned i = 0; i < words_at_once; ++i) {
            const unsigned column = 32 * (w + i) + lane(), j = column <= last ? column : last;
#pragma unroll
            for (int r = 0; r < scan_rows; ++r) product[i][r] = tile[r][j];
            latent[i] = latent_test(s, j);
        }
#pragma unroll
        for (unsigned i = 0; i < words_at_once; ++i)
#pragma unroll
            for (int r = 0; r < scan_rows; ++r) {
                const bool passes = !(most_of(product[i][r], error[r], latent[i]) < limit[r]);
                const unsigned bits = __ballot_sync(all_lanes, passes & (32 * (w + i) + lane() <= last));
                if (lane() == 0 && w + i < words) passing[r * words + w + i] = bits;
            }
    }
    __syncthreads();
    for (unsigned r = warp(); r < static_cast<unsigned>(rows); r += warps) {
        const std::int64_t row = first_row + r;
        unsigned at = s.used[row];
        for (unsigned start = 0; start < words; start += 32) {
            const unsigned w = start + lane();
            unsigned bits = w < words ? passing[r * words + w] : 0;
            const auto own = static_cast<unsigned>(__popc(bits));
            const unsigned sum = sum_up_to(own);
            for (std::int64_t to = at + sum - own; bits != 0 && to < s.room; bits &= bits - 1, ++to) {
                const std::int64_t j = 32 * static_cast<std::int64_t>(w) + __ffs(static_cast<int>(bits)) - 1;
                s.list_latent[row * s.room + to] = static_cast<std::uint32_t>(s.first_latent + j);
                s.list_value[row * s.room + to] =
                    most_of(s.tile[row * s.stride + j], s.row_errors[row], latent_test(s, j));
            }
            at += __shfl_sync(all_lanes, sum, 31);
        }
        __syncwarp();  // all lanes have read it
        if (lane() == 0) s.used[row] = at;
    }
}

void scan_tile(const Scan& scan, cudaStream_t stream) {
    const unsigned words = blocks_of(scan.columns, 32);
    launch("append_passing", append_passing, blocks_of(scan.rows, scan_rows),
           std::min(32 * blocks_of(words, scan_words), most_scan_threads),
           scan_rows * words * sizeof(unsigned), stream, scan);
}

}  // namespace strata::device::cuda
