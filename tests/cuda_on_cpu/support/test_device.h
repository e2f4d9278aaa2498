#pragma once
// The device that the tests are about: the CUDA device, with tiles so small that every problem has several.

#include <cstdlib>
#include <memory>

#include "comm/mpi.h"
#include "device/cpu/cpu_device.h"
#include "device/cuda/cuda_device.h"

namespace strata::test {

inline constexpr bool shares_memory = false;

// What the program opens as the backend is what the tests are linked with.
inline const bool backend_named = ::setenv("STRATA_GPU_BACKEND", STRATA_TEST_BACKEND, 1) == 0;

// Each rank has a GPU of its own.
inline std::unique_ptr<device::Device> make_test_device(int = 0, const device::CpuOptions& = {},
                                                        const device::ScreenKernels* = nullptr) {
    return std::make_unique<device::CudaDevice>(make_mpi_communicator()->rank(), device::GpuOptions{},
                                                device::cuda::ProductTile{24, 96, 24 * 150});
}

}  // namespace strata::test
