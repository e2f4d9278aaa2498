#pragma once
// Sums over ranks of memory that only a device can address.

#include <cstddef>
#include <memory>
#include <span>

#include "comm/communicator.h"

namespace strata::device {
class Device;
}

namespace strata {

class DeviceSums {
  public:
    virtual ~DeviceSums() = default;

    // Queues the sum over all ranks of each of these, in place; behind all work that the device was given so
    // far. Collective, with the same sizes in the same order. RunError if the ranks cannot be reached.
    virtual void add(std::span<const std::span<float>> tensors) = 0;

    // The device's work from here on finds all sums made. Returns when they are, or with a RunError that says
    // what kept them.
    virtual void finish() = 0;
};

// By way of host memory and MPI, at once: for GPUs without NCCL. The same bits as MPI's sums of host memory.
std::unique_ptr<DeviceSums> make_staged_sums(Communicator& comm, device::Device& device);

}  // namespace strata
