#pragma once
// The threshold that a batch rule is replaced by when an SAE is used.

#include <cstdint>
#include <functional>

#include "comm/communicator.h"
#include "data/stream.h"
#include "device/device.h"

namespace strata::eval {

// The threshold t for which the mean number of z > t is k over `batches` batches of all ranks: the exact
// (k * rows)-th largest pre-activation. `next` gives this rank's rows of the next batch; `lower` is a first
// guess of a value below t (speed only). Collective.
float calibrate_threshold(device::Device& device, Communicator& comm, const device::Tensors& sae, double k,
                          std::int64_t batches, float lower, const std::function<data::Batch()>& next);

}  // namespace strata::eval
