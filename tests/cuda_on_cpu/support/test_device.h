#pragma once
// The device that the tests are about: the CUDA device, with tiles so small that every problem has several.

#include <memory>

#include "device/cuda/cuda_device.h"

namespace strata::test {

inline std::unique_ptr<device::Device> make_test_device(int = 0) {
    return std::make_unique<device::CudaDevice>(0, device::GpuOptions{},
                                                device::cuda::ProductTile{24, 96, 24 * 150});
}

}  // namespace strata::test
