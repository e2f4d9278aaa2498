#pragma once
// Batches on their way to the GPU.

#include <memory>

#include "device/cuda/runtime.h"
#include "device/device.h"

namespace strata::device::cuda {

// On the GPU of this number. `copies`: a stream for its copies.
std::unique_ptr<Parcel> make_parcel(int ordinal, cudaStream_t copies, const ParcelShape& shape);

// The given ones of the rows last sent, as float32 and scaled, into `x`, and their targets, if the parcel has
// them, into `target`; in `stream`, behind their copy. What is sent next does not come before that.
void take_parcel(const Parcel& parcel, Slice rows, float* x, float* target, cudaStream_t stream);

}  // namespace strata::device::cuda
