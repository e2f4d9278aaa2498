// The codes by latent: a counting sort without atomics. Rows are cut into chunks, a block to each, which goes
// through its rows one after another: the latents of a row are distinct, so its pairs count side by side, and
// the rows of a latent ascend.

#include <algorithm>

#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"
#include "device/cuda/filter.h"

namespace strata::device {
namespace cuda {

constexpr std::int64_t most_counts = std::int64_t{1} << 24;  // 64 MiB
constexpr std::int64_t scanned = 8 * block_threads;          // elements of a block of a scan

struct Chunks {
    std::int64_t first, last;  // rows
    std::int64_t count;
    __device__ std::int64_t begin(std::int64_t chunk) const { return first + (last - first) * chunk / count; }
};

// counts[chunk][latent]; zero before. Integer sums, whose order does not matter. Reads 4 bytes a pair.
__global__ void count_chunks(PairsView pairs, Chunks chunks, std::int64_t width, std::uint32_t* counts) {
    std::uint32_t* own = counts + blockIdx.x * width;
    const std::uint32_t end = pairs.begin[chunks.begin(blockIdx.x + 1)];
    for (std::uint32_t e = pairs.begin[chunks.begin(blockIdx.x)] + threadIdx.x; e < end; e += blockDim.x)
        atomicAdd(&own[pairs.latent[e]], 1U);
}

// Each chunk's count becomes that of the chunks before; the totals. A thread to a latent.
__global__ void add_chunks(std::uint32_t* counts, std::int64_t chunks, std::int64_t width,
                           std::uint32_t* totals) {
    const std::int64_t j = global_thread();
    if (j >= width) return;
    std::uint32_t sum = 0;
    for (std::int64_t c = 0; c < chunks; ++c) {
        const std::uint32_t own = counts[c * width + j];
        counts[c * width + j] = sum;
        sum += own;
    }
    totals[j] = sum;
}

// What comes before each element of a block's 8 to a thread, and the block's sum. `scratch`: [warps].
__device__ inline unsigned scan_block(const std::uint32_t* counts, std::int64_t size, unsigned (&own)[8],
                                      unsigned* scratch, unsigned& all) {
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * scanned + 8 * threadIdx.x;
    unsigned sum = 0;
    for (int i = 0; i < 8; ++i) {
        own[i] = first + i < size ? counts[first + i] : 0;
        sum += own[i];
    }
    const unsigned up_to = sum_up_to(sum);
    if (lane() == 31) scratch[warp()] = up_to;
    __syncthreads();
    unsigned before = up_to - sum;
    all = 0;
    for (unsigned w = 0; w < block_warps; ++w) {
        if (w < warp()) before += scratch[w];
        all += scratch[w];
    }
    return before;
}

__global__ void scan_sums(const std::uint32_t* counts, std::int64_t size, std::uint32_t* sums) {
    unsigned own[8], all = 0;
    scan_block(counts, size, own, reinterpret_cast<unsigned*>(strata_shared), all);
    if (threadIdx.x == 0) sums[blockIdx.x] = all;
}

// begin[0 .. size]; `before`: what comes before each block.
__global__ void scan_write(const std::uint32_t* counts, std::int64_t size, const std::uint32_t* before,
                           std::uint32_t* begin) {
    unsigned own[8], all = 0;
    unsigned at =
        before[blockIdx.x] + scan_block(counts, size, own, reinterpret_cast<unsigned*>(strata_shared), all);
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * scanned + 8 * threadIdx.x;
    for (int i = 0; i < 8; ++i) {
        if (first + i < size) begin[first + i] = at;
        at += own[i];
        if (first + i + 1 == size) begin[size] = at;
    }
}

// Reads 16 bytes a pair and writes 12, scattered.
__global__ void scatter_chunks(PairsView pairs, const float* gradient, float scale, Chunks chunks,
                               std::int64_t width, std::uint32_t* counts, const std::uint32_t* latent_begin,
                               std::uint32_t* row_of, float* value_of, float* gradient_of) {
    std::uint32_t* own = counts + blockIdx.x * width;
    for (std::int64_t r = chunks.begin(blockIdx.x); r < chunks.begin(blockIdx.x + 1); ++r) {
        for (std::uint32_t e = pairs.begin[r] + threadIdx.x; e < pairs.begin[r + 1]; e += blockDim.x) {
            const std::uint32_t j = pairs.latent[e];
            const std::uint32_t to = latent_begin[j] + own[j]++;
            row_of[to] = static_cast<std::uint32_t>(r - chunks.first);
            value_of[to] = scale * pairs.value[e];
            gradient_of[to] = gradient[e];
        }
        __syncthreads();
    }
}

// Count, sum of f, of dL/df and of their product, [4, M]; a warp to a latent.
__global__ void sum_latents(const std::uint32_t* begin, const float* value_of, const float* gradient_of,
                            float scale, std::int64_t width, double* sums) {
    const std::int64_t j = global_warp();
    if (j >= width) return;
    double value = 0, gradient = 0, both = 0;
    for (std::uint32_t e = begin[j] + lane(); e < begin[j + 1]; e += 32) {
        value += value_of[e];
        gradient += gradient_of[e];
        both += static_cast<double>(value_of[e]) * gradient_of[e];
    }
    value = fold(value);
    gradient = fold(gradient);
    both = fold(both);
    if (lane() != 0) return;
    sums[j] = begin[j + 1] - begin[j];
    sums[width + j] = value / scale;
    sums[2 * width + j] = gradient;
    sums[3 * width + j] = both / scale;
}

// Sets the bits of the latents that have a code. Reads 4 bytes a pair.
__global__ void mark_latents_of(PairsView pairs, std::int64_t rows, std::uint32_t* bits) {
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t e = global_thread(); e < pairs.begin[rows]; e += step)
        atomicOr(&bits[pairs.latent[e] / 32], 1U << (pairs.latent[e] % 32));
}

// Integer sums, whose order does not matter. Reads 4 bytes a pair.
__global__ void count_latents_of(PairsView pairs, std::int64_t rows, std::uint32_t* totals) {
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t e = global_thread(); e < pairs.begin[rows]; e += step)
        atomicAdd(&totals[pairs.latent[e]], 1U);
}

}  // namespace cuda

using namespace cuda;

void CudaDevice::transpose(CodeTable& codes, std::int64_t width) {
    const Chunks chunks{
        first_row_, last_row_,
        std::clamp<std::int64_t>(most_counts / width, 1,
                                 std::clamp<std::int64_t>(last_row_ - first_row_, 1, tile_.row_chunks))};
    const auto blocks = static_cast<unsigned>(chunks.count);
    codes.row_of.grow(codes.pairs.most);
    codes.value_of.grow(codes.pairs.most);
    codes.gradient_of.grow(codes.pairs.most);
    codes.latent_begin.grow(width + 1);
    latent_counts_.grow(chunks.count * width);
    latent_totals_.grow(width);
    fill_zero(latent_counts_.data(), chunks.count * width, stream_, "counts by latent");
    launch("count_chunks", count_chunks, blocks, block_threads, 0, stream_, view_of(codes.pairs), chunks,
           width, latent_counts_.data());
    launch("add_chunks", add_chunks, blocks_of(width, block_threads), block_threads, 0, stream_,
           latent_counts_.data(), chunks.count, width, latent_totals_.data());

    const unsigned parts = blocks_of(width, scanned);
    constexpr std::size_t scratch = block_warps * sizeof(unsigned);
    scan_sums_.grow(2 * parts + 1);
    std::uint32_t* before = scan_sums_.data() + parts;
    fill_zero(before, 1, stream_, "sums of a scan");
    launch("scan_sums", scan_sums, parts, block_threads, scratch, stream_, latent_totals_.data(), width,
           scan_sums_.data());
    scan_counts(scan_sums_.data(), parts, before, nullptr, stream_);
    launch("scan_write", scan_write, parts, block_threads, scratch, stream_, latent_totals_.data(), width,
           before, codes.latent_begin.data());

    launch("scatter_chunks", scatter_chunks, blocks, block_threads, 0, stream_, view_of(codes.pairs),
           codes.gradient.data(), codes.gradient_scale, chunks, width, latent_counts_.data(),
           codes.latent_begin.data(), codes.row_of.data(), codes.value_of.data(), codes.gradient_of.data());
}

// [4, M]; after transpose().
void CudaDevice::sum_by_latent(const CodeTable& codes, std::int64_t width, double* sums) {
    launch("sum_latents", sum_latents, blocks_of(width, block_warps), block_threads, 0, stream_,
           codes.latent_begin.data(), codes.value_of.data(), codes.gradient_of.data(), codes.gradient_scale,
           width, sums);
}

// The first range of rows sets them, the others add to them. `from` begins with [4, M].
void CudaDevice::add_sums(std::span<const double> from, std::int64_t width, LatentSums& to) {
    const auto size = static_cast<std::size_t>(width);
    if (first_row_ == 0) to.reset(width);
    const double* at = from.data();
    for (std::vector<double>* part : {&to.count, &to.value, &to.gradient, &to.value_gradient}) {
        for (std::size_t j = 0; j < size; ++j) (*part)[j] += at[j];
        at += size;
    }
}

void CudaDevice::latent_sums(CodeSet set, LatentSums& sums, std::int64_t width) {
    CodeTable& codes = table(set);
    codes.gradient_scale = 1;
    transpose(codes, width);
    latent_sums_.grow(4 * width);
    sum_by_latent(codes, width, latent_sums_.data());
    latent_sums_arriving_.send(latent_sums_.data(), 4 * width, stream_);
    add_sums(latent_sums_arriving_.get(stream_), width, sums);
}

void CudaDevice::fired(CodeSet set, std::span<std::uint32_t> bits) {
    const Pairs& pairs = table(set).pairs;
    fired_.grow(std::ssize(bits));
    fill_zero(fired_.data(), std::ssize(bits), stream_, fired_.name());
    launch("mark_latents_of", mark_latents_of, std::min(blocks_of(pairs.most, block_threads), 4096U),
           block_threads, 0, stream_, view_of(pairs), rows_, fired_.data());
    cuda::download(fired_.data(), bits, stream_, fired_.name());
}

void CudaDevice::count_codes(std::span<std::uint64_t> counts) {
    const Pairs& pairs = table(CodeSet::main).pairs;
    const std::int64_t width = std::ssize(counts);
    latent_totals_.grow(width);
    fill_zero(latent_totals_.data(), width, stream_, latent_totals_.name());
    launch("count_latents_of", count_latents_of, std::min(blocks_of(pairs.most, block_threads), 4096U),
           block_threads, 0, stream_, view_of(pairs), rows_, latent_totals_.data());
    std::vector<std::uint32_t> own(counts.size());
    cuda::download(latent_totals_.data(), std::span(own), stream_, latent_totals_.name());
    for (std::size_t j = 0; j < own.size(); ++j) counts[j] += own[j];
}

}  // namespace strata::device
