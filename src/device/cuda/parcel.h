#pragma once
// Batches on their way to the GPU.

#include <memory>

#include "device/cuda/runtime.h"
#include "device/device.h"

namespace strata::device::cuda {

// On the GPU of this number. `copies`: a stream for its copies.
std::unique_ptr<Parcel> make_parcel(int ordinal, cudaStream_t copies, const ParcelShape& shape);

// The rows last sent, as float32 and scaled, into `x`, and the targets, if the parcel has them, into
// `target`; in `stream`, behind their copy.
void take_parcel(const Parcel& parcel, float* x, float* target, cudaStream_t stream);

}  // namespace strata::device::cuda
