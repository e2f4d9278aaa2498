#include "device/cuda/runtime.h"

#include <atomic>

#include "base/error.h"

namespace strata::device::cuda {
namespace {

std::atomic<std::uint64_t> moves = 0;  // parcels are made by other threads

}  // namespace

std::uint64_t array_moves() {
    return moves;
}

void count_array_move() {
    ++moves;
}

void fail_call(cudaError_t error, const char* call, const char* what, std::size_t bytes) {
    std::size_t free = 0, total = 0;
    if (error == cudaErrorMemoryAllocation && cudaMemGetInfo(&free, &total) == cudaSuccess)
        fail(
            "{} of {} bytes for {}: the GPU has {} of {} bytes free; reduce train.batch_size or the width of "
            "the SAEs, or train fewer at once",
            call, bytes, what, free, total);
    fail("{} for {} ({} bytes) failed: {}, {}{}", call, what, bytes, cudaGetErrorName(error),
         cudaGetErrorString(error),
         error == cudaErrorNoKernelImageForDevice
             ? "; this build has no code for this GPU: build with its compute capability among "
               "CMAKE_CUDA_ARCHITECTURES"
             : "");
}

void require(bool holds, const char* what) {
    if (!holds) fail("internal invariant broken: {}; please report it", what);
}

}  // namespace strata::device::cuda
