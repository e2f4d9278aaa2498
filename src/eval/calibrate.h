#pragma once
// The threshold that a batch rule is replaced by when an SAE is used.

#include <cstdint>
#include <functional>

#include "comm/communicator.h"
#include "data/stream.h"
#include "device/device.h"

namespace strata::eval {

// Calls its argument with this rank's rows of each of some batches, the same ones every time.
using EachBatch = std::function<void(const std::function<void(const data::Batch&)>&)>;

// The threshold t that k * rows pre-activations reach over the batches of all ranks: the exact (k * rows)-th
// largest. `lower` is a first guess of a value below t (speed only: the batches are passed over again with a
// lower one where it was too high); ranks may guess differently. Collective.
float calibrate_threshold(device::Device& device, Communicator& comm, const device::Tensors& sae, double k,
                          float lower, const EachBatch& each_batch);

}  // namespace strata::eval
