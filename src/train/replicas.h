#pragma once
// How the ranks of a run share what need not be done by each: those of one host hold one copy of W_enc and
// W_dec, and each updates its slice of the latents, with moments for that slice only.

#include <cstdint>
#include <memory>

#include "comm/communicator.h"
#include "device/device.h"

namespace strata::train {

// Latents [first, last).
struct Slice {
    std::int64_t first = 0, last = 0;
};

class Replicas {
  public:
    // Collective. Ranks in groups of `group_size` consecutive ones; 0: those of a host, if every host has as
    // many and they can share memory, else each alone. On a device of other than host memory each must be.
    explicit Replicas(Communicator& all, int group_size = 0);
    Replicas(Communicator& all_, const device::Device& device)
        : Replicas(all_, device.host_memory() ? 0 : 1) {}

    Communicator& all;
    std::unique_ptr<Communicator> group;   // shares memory
    std::unique_ptr<Communicator> across;  // the ranks that have the same place in the other groups

    // The latents that this rank updates, and those of them that it saves.
    Slice updated(std::int64_t width) const;
    Slice saved(std::int64_t width) const;

    // Collective over the group: a matrix that all of it address, or one of this rank's own where it is
    // alone.
    device::Memory<float> shared_matrix(device::Device& device, std::size_t size) const;
    // The same for bytes.
    device::Memory<std::byte> shared_bytes(device::Device& device, std::size_t size) const;
    // Collective over the group: a matrix of this rank's own, that all of it can read. `of_ranks` gets all of
    // them.
    device::Memory<float> readable_matrix(device::Device& device, std::size_t size,
                                          std::vector<const float*>& of_ranks) const;
};

}  // namespace strata::train
