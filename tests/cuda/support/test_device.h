#pragma once
// The device that the tests are about: the CUDA device on a GPU, with tiles so small that every problem has
// several.

#include <cstdlib>
#include <memory>

#include "comm/mpi.h"
#include "device/cpu/cpu_device.h"
#include "device/cuda/cuda_device.h"

namespace strata::test {

inline constexpr bool shares_memory = false;

// A step made again stands for other numbers of threads.
inline constexpr int other_threads[] = {2, 3};
inline constexpr std::size_t some_rows = 197, many_rows = 4500, many_latents = 3000;

// A GPU takes blocks in what order it likes: what a test does in several orders is done as often.
inline void set_order(std::uint64_t) {}

// Each rank has a GPU of its own.
inline std::unique_ptr<device::Device> make_test_device(int = 0, const device::CpuOptions& = {},
                                                        const device::ScreenKernels* = nullptr) {
    return std::make_unique<device::CudaDevice>(make_mpi_communicator()->rank(), device::GpuOptions{},
                                                device::cuda::ProductTile{24, 96, 5, 24 * 150, 2400});
}

}  // namespace strata::test
