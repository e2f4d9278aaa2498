#pragma once
// Pairs that pass a test, in their order: counted by row, then written behind where their rows begin.

#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"

namespace strata::device {
namespace cuda {

// begin[0] is there; begin[1 .. rows] follow from the counts. `counters`: null, or counters[1] grows by the
// total.
void scan_counts(const std::uint32_t* counts, std::int64_t rows, std::uint32_t* begin,
                 unsigned long long* counters, cudaStream_t stream);

// passes(row, entry, latent, value), the same each time it is asked; passes.code(latent, value) is what is
// kept. A block to a row; reads 8 bytes a pair.
template <typename Passes>
__global__ void count_passing(PairsView from, Passes passes, std::uint32_t* counts) {
    auto* scratch = reinterpret_cast<unsigned*>(strata_shared);
    const std::int64_t r = blockIdx.x;
    unsigned count = 0;
    for (std::uint32_t e = from.begin[r] + threadIdx.x; e < from.begin[r + 1]; e += blockDim.x)
        count += passes(r, e, from.latent[e], from.value[e]);
    count = block_sum(count, scratch);
    if (threadIdx.x == 0) counts[r] = count;
}

// Reads 8 bytes a pair, writes 12 or 16 of each that passes.
template <typename Passes>
__global__ void write_passing(PairsView from, Passes passes, const std::uint32_t* begin, std::uint32_t* row,
                              std::uint32_t* latent, float* value, float* gradient) {
    auto* scratch = reinterpret_cast<unsigned*>(strata_shared);
    const std::int64_t r = blockIdx.x;
    const std::uint32_t end = from.begin[r + 1];
    std::uint32_t at = begin[r];
    for (std::uint32_t start = from.begin[r]; start < end; start += blockDim.x) {
        const std::uint32_t e = start + threadIdx.x;
        const bool taken = e < end && passes(r, e, from.latent[e], from.value[e]);
        const Place place = block_place(taken, scratch);
        if (taken) {
            const std::uint32_t to = at + place.before;
            row[to] = static_cast<std::uint32_t>(r);
            latent[to] = from.latent[e];
            value[to] = passes.code(from.latent[e], from.value[e]);
            if (gradient != nullptr) gradient[to] = 0;
        }
        at += place.total;
    }
}

}  // namespace cuda

template <typename Passes>
void CudaDevice::filter(const cuda::Pairs& from, const Passes& passes, cuda::Pairs& to, float* gradient) {
    constexpr std::size_t scratch = cuda::block_warps * sizeof(unsigned);
    const auto blocks = static_cast<unsigned>(rows_);
    to.make_room(capacity_, from.most);
    to.most = from.most;
    cuda::launch("count_passing", cuda::count_passing<Passes>, blocks, cuda::block_threads, scratch, stream_,
                 view_of(from), passes, row_counts_.data());
    cuda::fill_zero(to.begin.data(), 1, stream_, "the pairs' rows");
    cuda::scan_counts(row_counts_.data(), rows_, to.begin.data(), nullptr, stream_);
    cuda::launch("write_passing", cuda::write_passing<Passes>, blocks, cuda::block_threads, scratch, stream_,
                 view_of(from), passes, to.begin.data(), to.row.data(), to.latent.data(), to.value.data(),
                 gradient);
}

template <typename Passes>
void CudaDevice::keep_if(CodeSet set, const cuda::Pairs& from, const Passes& passes) {
    cuda::CodeTable& codes = table(set);
    codes.gradient.grow(from.most);
    filter(from, passes, codes.pairs, codes.gradient.data());
}

}  // namespace strata::device
