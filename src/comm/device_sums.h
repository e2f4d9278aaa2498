#pragma once
// Sums over ranks, and copies, of memory that only a device can address.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "comm/communicator.h"

namespace strata::device {
class Device;
}

namespace strata {

class DeviceSums {
  public:
    static constexpr int everyone = -1;
    struct Part {
        std::span<float> values;
        int owner = everyone;  // a rank
    };

    virtual ~DeviceSums() = default;

    // The three queue something behind all work that the device was given so far. Collective, with the same
    // sizes and owners in the same order. RunError if the ranks cannot be reached. Each part's sum over all
    // ranks, in place: for its owner, or for everyone. Others keep what they gave.
    virtual void add(std::span<const Part> parts) = 0;
    // Each part as its owner has it, for all ranks.
    virtual void spread(std::span<const Part> parts) = 0;
    // Each number's sum over all ranks, for everyone, which the device's work from here on finds.
    virtual void add_counts(std::span<std::uint64_t> counts) = 0;

    // The device's work from here on finds what add() and spread() made. Returns when it is, or with a
    // RunError that says what kept it.
    virtual void finish() = 0;
};

// By way of host memory and MPI, at once: for GPUs without NCCL. The same bits as MPI's sums of host memory.
std::unique_ptr<DeviceSums> make_staged_sums(Communicator& comm, device::Device& device);

}  // namespace strata
