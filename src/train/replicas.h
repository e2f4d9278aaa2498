#pragma once
// How the ranks of a run share what need not be done by each. Each rank of a group updates its slice of the
// latents, with moments for that slice only. Where memory is the host's a group is the ranks of one host,
// which hold one copy of W_enc and W_dec; GPUs are one group, each with copies of its own, that get the other
// slices after every update.

#include <cstdint>
#include <memory>

#include "comm/communicator.h"
#include "device/device.h"

namespace strata::train {

using device::Slice;

class Replicas {
  public:
    // Collective. Ranks that share host memory in groups of `group_size` consecutive ones; 0: those of a
    // host, if every host has as many and they can share memory, else each alone.
    explicit Replicas(Communicator& all, int group_size = 0);
    // The same on this device; one group of all ranks where its memory is not the host's.
    Replicas(Communicator& all, const device::Device& device, int group_size = 0);

    Communicator& all;
    std::unique_ptr<Communicator> group;
    std::unique_ptr<Communicator> across;  // the ranks that have the same place in the other groups
    bool in_place = true;                  // the ranks of a group see each other's memory

    bool share_memory() const { return in_place && group->size() > 1; }

    // The latents that a rank of the group updates; this rank; those of them that it saves.
    Slice updated_by(int rank, std::int64_t width) const;
    Slice updated(std::int64_t width) const { return updated_by(group->rank(), width); }
    Slice saved(std::int64_t width) const;
    // Those whose weights this rank writes when all ranks write the same ones.
    Slice written(std::int64_t width) const { return in_place ? updated(width) : Slice{0, width}; }

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
