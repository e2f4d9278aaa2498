// The threshold of the whole distributed batch, digit by digit (comm/selection.h): counts, their sums over
// ranks and the choice of a digit follow each other on the GPU, and the host waits for the outcome alone.

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "comm/communicator.h"
#include "comm/device_sums.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"
#include "device/cuda/filter.h"

namespace strata::device {
namespace cuda {

// What is known of the threshold. Where there are fewer values than wanted, or none is, no more than that.
struct SelectionState {
    std::uint64_t available;  // values of all ranks
    std::uint64_t wanted;     // the rank of the threshold among the values that begin with the prefix
    std::uint64_t prefix;     // its digits so far
    std::uint64_t exists;
};
constexpr std::int64_t state_size = sizeof(SelectionState) / sizeof(std::uint64_t);

// Pairs whose bits, shifted right by shift + digits, equal the prefix, by their next `digits` bits: first in
// shared memory (up to 8 KiB), then in `counts`. Reads 4 bytes a pair, 12 with a mask.
__global__ void count_digits(PairsView pairs, std::int64_t rows, DeviceMask mask, const SelectionState* state,
                             int shift, int digits, unsigned long long* counts) {
    auto* bins = reinterpret_cast<unsigned*>(strata_shared);
    const std::uint32_t size = 1U << digits, prefix = static_cast<std::uint32_t>(state->prefix);
    for (std::uint32_t i = threadIdx.x; i < size; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    const std::int64_t count = pairs.begin[rows], step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t e = global_thread(); e < count; e += step) {
        const std::uint32_t bits = __float_as_uint(pairs.value[e]);
        if ((bits >> shift >> digits) == prefix && !mask(pairs.row[e], pairs.latent[e]))
            atomicAdd(&bins[(bits >> shift) & (size - 1)], 1U);
    }
    __syncthreads();
    for (std::uint32_t i = threadIdx.x; i < size; i += blockDim.x)
        if (bins[i] != 0) atomicAdd(&counts[i], static_cast<unsigned long long>(bins[i]));
}

// The next digit of the threshold, from the counts of all ranks; *ties gets the values of this rank that
// share it, whose counts are `own`. `k`: in the first round. One warp.
__global__ void pick_digit(const std::uint64_t* all, const std::uint64_t* own, int digits, bool first,
                           std::uint64_t k, SelectionState* state, std::uint64_t* ties) {
    const unsigned bins = (1U << digits) / 32, start = lane() * bins;  // a lane's
    std::uint64_t mine = 0;
    for (unsigned i = 0; i < bins; ++i) mine += all[start + i];
    const std::uint64_t from_here = sum_from(mine), available = __shfl_sync(all_lanes, from_here, 0);
    const std::uint64_t wanted = first ? k : state->wanted, prefix = state->prefix;
    const bool exists = first ? k > 0 && available >= k : state->exists != 0;
    __syncwarp();
    if (first && lane() == 0) {
        state->available = available;
        state->exists = exists ? 1 : 0;
    }
    std::uint64_t above = from_here - mine;
    if (!exists || above >= wanted || from_here < wanted) return;
    unsigned digit = start + bins - 1;
    while (above + all[digit] < wanted) above += all[digit--];
    state->wanted = wanted - above;
    state->prefix = prefix << digits | digit;
    *ties = own[digit];
}

}  // namespace cuda

using namespace cuda;

Selection CudaDevice::select_largest(Communicator& comm, DeviceSums* sums, std::uint64_t k, bool masked) {
    require(comm.size() == 1 || sums != nullptr, "several ranks have sums of device memory");
    const std::size_t ranks = static_cast<std::size_t>(comm.size());
    std::vector<std::uint64_t> found(static_cast<std::size_t>(state_size) + ranks);
    selection_.grow(std::ssize(found));
    fill_zero(selection_.data(), std::ssize(found), stream_, selection_.name());
    auto* state = reinterpret_cast<SelectionState*>(selection_.data());
    std::uint64_t* ties = selection_.data() + state_size;
    const auto* own = reinterpret_cast<const std::uint64_t*>(counters_.data());
    const std::uint64_t* all = own;
    for (const auto [shift, digits] : selection_rounds) {
        const std::int64_t bins = std::int64_t{1} << digits;
        fill_zero(counters_.data(), bins, stream_, counters_.name());
        launch("count_digits", count_digits, std::min(blocks_of(candidates_.most, 1024), 1024U),
               block_threads, static_cast<std::size_t>(bins) * sizeof(unsigned), stream_,
               view_of(candidates_), rows_, device_mask(masked), state, shift, digits, counters_.data());
        if (ranks > 1) {
            const std::size_t bytes = static_cast<std::size_t>(bins) * sizeof(std::uint64_t);
            all_counters_.grow(counters_.size());
            check(cudaMemcpyAsync(all_counters_.data(), own, bytes, cudaMemcpyDeviceToDevice, stream_),
                  "cudaMemcpyAsync on the device", all_counters_.name(), bytes);
            sums->add_counts({all_counters_.data(), static_cast<std::size_t>(bins)});
            all = all_counters_.data();
        }
        launch("pick_digit", pick_digit, 1, 32, 0, stream_, all, own, digits,
               shift == selection_rounds[0].shift, k, state, ties + comm.rank());
    }
    if (ranks > 1) {
        sums->add_counts({ties, ranks});
        sums->finish();  // which ends where another rank is lost, as waiting for the stream would not
    }
    cuda::download(selection_.data(), std::span(found), stream_, selection_.name());

    const SelectionState outcome{found[0], found[1], found[2], found[3]};
    Selection selection{.available = outcome.available};
    if (k == 0) selection.threshold = std::numeric_limits<float>::infinity();
    if (outcome.exists == 0) return selection;
    selection.threshold = std::bit_cast<float>(static_cast<std::uint32_t>(outcome.prefix));
    selection.ties_to_take = ties_to_take(std::span(found).subspan(static_cast<std::size_t>(state_size)),
                                          comm.rank(), outcome.wanted);
    return selection;
}

}  // namespace strata::device
