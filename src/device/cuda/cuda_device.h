#pragma once
// The CUDA device.

#include <memory>

#include "device/device.h"

namespace strata::device {

// On the GPU of this number, which becomes the calling thread's. RunError, with CUDA's words, if it cannot be
// used.
std::unique_ptr<Device> make_cuda_device(int ordinal, const GpuOptions& options);

}  // namespace strata::device
