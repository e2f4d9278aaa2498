// From candidates to codes: keeping by a threshold or a gate.

#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"
#include "device/cuda/filter.h"

namespace strata::device {
namespace cuda {

// Pairs equal to the threshold, by row; a block to a row.
__global__ void count_ties(PairsView pairs, DeviceMask mask, float threshold, std::uint32_t* counts) {
    auto* scratch = reinterpret_cast<unsigned*>(strata_shared);
    const std::int64_t r = blockIdx.x;
    unsigned ties = 0;
    for (std::uint32_t e = pairs.begin[r] + threadIdx.x; e < pairs.begin[r + 1]; e += blockDim.x)
        ties += pairs.value[e] == threshold && !mask(r, pairs.latent[e]);
    ties = block_sum(ties, scratch);
    if (threadIdx.x == 0) counts[r] = ties;
}

// *after: the entry behind the last tie that is taken, in order of (row, latent), where there are as many as
// are wanted. `begin` counts the ties of the rows before. One row has it, and its block writes it.
__global__ void find_last_tie(PairsView pairs, DeviceMask mask, float threshold, unsigned long long wanted,
                              const std::uint32_t* begin, std::uint32_t* after) {
    auto* scratch = reinterpret_cast<unsigned*>(strata_shared);
    const std::int64_t r = blockIdx.x;
    if (begin[r] >= wanted || begin[r + 1] < wanted) return;
    const std::uint32_t end = pairs.begin[r + 1];
    unsigned long long before = begin[r];
    for (std::uint32_t start = pairs.begin[r]; start < end; start += blockDim.x) {
        const std::uint32_t e = start + threadIdx.x;
        const bool tie = e < end && pairs.value[e] == threshold && !mask(r, pairs.latent[e]);
        const Place place = block_place(tie, scratch);
        if (tie && before + place.before + 1 == wanted) *after = e + 1;
        before += place.total;
    }
}

// Candidates above a threshold, and those equal to it up to the last tie.
struct AboveThreshold {
    float threshold;
    const std::uint32_t* after;  // null: no ties
    DeviceMask mask;
    __device__ bool operator()(std::int64_t row, std::uint32_t e, std::uint32_t latent, float value) const {
        return (value > threshold || (after != nullptr && e < *after && value == threshold)) &&
               !mask(row, latent);
    }
    __device__ float code(std::uint32_t, float value) const { return value; }
};

// Pairs that a set takes by a rule of one pre-activation at a time.
struct ByGate {
    GateView gate;
    CodeSet set;
    DeviceMask mask;
    __device__ float code(std::uint32_t j, float z) const { return gate.value(set, j, z); }
    __device__ bool operator()(std::int64_t row, std::uint32_t, std::uint32_t j, float z) const {
        return gate.takes(set, j, z) && !mask(row, j);
    }
};

struct Unmasked {
    DeviceMask mask;
    __device__ bool operator()(std::int64_t row, std::uint32_t, std::uint32_t j, float) const {
        return !mask(row, j);
    }
    __device__ float code(std::uint32_t, float value) const { return value; }
};

}  // namespace cuda

using namespace cuda;

void CudaDevice::keep(CodeSet set, float threshold, std::uint64_t ties, bool masked) {
    const DeviceMask mask = device_mask(masked);
    if (ties == 0) {
        keep_if(set, candidates_, AboveThreshold{threshold, nullptr, mask});
        return;
    }
    constexpr std::size_t scratch = block_warps * sizeof(unsigned);
    const auto blocks = static_cast<unsigned>(rows_);
    last_tie_.grow(1);
    tie_begin_.grow(capacity_ + 1);
    check(cudaMemsetAsync(last_tie_.data(), 0xff, sizeof(std::uint32_t), stream_), "cudaMemsetAsync", "ties");
    fill_zero(tie_begin_.data(), 1, stream_, "ties");
    launch("count_ties", count_ties, blocks, block_threads, scratch, stream_, view_of(candidates_), mask,
           threshold, row_counts_.data());
    scan_counts(row_counts_.data(), rows_, tie_begin_.data(), nullptr, stream_);
    launch("find_last_tie", find_last_tie, blocks, block_threads, scratch, stream_, view_of(candidates_),
           mask, threshold, ties, tie_begin_.data(), last_tie_.data());
    keep_if(set, candidates_, AboveThreshold{threshold, last_tie_.data(), mask});
}

void CudaDevice::keep_gate(const Gate& gate, const Tensors& sae, bool masked) {
    const GateView view = upload_gate(gate, sae);
    const auto keep_by = [&](CodeSet set, bool open_only) {
        keep_if(set, candidates_, ByGate{view, set, device_mask(open_only)});
    };
    if (masked) keep_by(CodeSet::observed, false);
    keep_by(CodeSet::main, masked);
    if (gate.frozen) keep_by(CodeSet::gate, masked);
    if (gate.window > 0) keep_by(CodeSet::window, masked);
}

// The gate, with its arrays on the GPU.
GateView CudaDevice::upload_gate(const Gate& gate, const Tensors& sae) {
    const auto sent = [&](std::span<const float> from, DeviceArray<float>& to) -> const float* {
        cuda::upload(from, to, stream_);
        return from.empty() ? nullptr : to.data();
    };
    return {sent(gate.threshold, gate_threshold_),
            sent(gate.gain, gate_gain_),
            sent(gate.offset, gate_offset_),
            sent(gate.penalty, gate_penalty_),
            sae.b_enc.data(),
            gate.window,
            gate.frozen,
            gate.observe};
}

void CudaDevice::keep_unmasked(CodeSet from, CodeSet set) {
    keep_if(set, table(from).pairs, Unmasked{device_mask()});
}

}  // namespace strata::device
