#pragma once
// The device that the tests are about: the CUDA device, with tiles so small that every problem has several.

#include <cstdlib>
#include <memory>

#include "comm/mpi.h"
#include "cuda_on_cpu.h"
#include "device/cpu/cpu_device.h"
#include "device/cuda/cuda_device.h"

namespace strata::test {

inline constexpr bool shares_memory = false;

// Orders in which blocks and threads run stand for numbers of threads. Problems are smaller, since a thread
// of a GPU takes much longer on a CPU.
inline constexpr int other_threads[] = {2, 3};
inline constexpr std::size_t some_rows = 50, many_rows = 300, many_latents = 400;

// What the program opens as the backend is what the tests are linked with.
inline const bool backend_named = ::setenv("STRATA_GPU_BACKEND", STRATA_TEST_BACKEND, 1) == 0;

// Another order of blocks and threads must not change any result.
inline void set_order(std::uint64_t seed) {
    cuda_on_cpu::set_order(seed);
}

// Each rank has a GPU of its own.
inline std::unique_ptr<device::Device> make_test_device(int order = 0, const device::CpuOptions& = {},
                                                        const device::ScreenKernels* = nullptr) {
    set_order(static_cast<std::uint64_t>(order));
    return std::make_unique<device::CudaDevice>(make_mpi_communicator()->rank(), device::GpuOptions{},
                                                device::cuda::ProductTile{24, 96, 5, 24 * 150, 2400});
}

}  // namespace strata::test
