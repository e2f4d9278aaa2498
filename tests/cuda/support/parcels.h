#pragma once
// A CUDA device for batches that are sent to it, and an SAE that leaves them as they are.

#include <memory>

#include "device/cuda/cuda_device.h"
#include "support/problem.h"

namespace strata::test {

inline constexpr std::int64_t n = 64;

// `held`: rows at a time; 0: all.
inline std::unique_ptr<device::CudaDevice> make_parcel_device(int ordinal, std::int64_t rows,
                                                              std::int64_t held = 0) {
    auto device = std::make_unique<device::CudaDevice>(ordinal, device::GpuOptions{},
                                                       device::cuda::ProductTile{24, 96, 5, 24 * 150});
    device->hold_at_most(held);
    device->prepare(rows, n, 8, 1);
    return device;
}

// With b_dec = 0, so that xc is x.
inline device::Tensors plain_sae(device::Device& device) {
    device::Shape shape;
    shape.n = n;
    shape.width = 8;
    return device::make_tensors(device, shape);
}

}  // namespace strata::test
