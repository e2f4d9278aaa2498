#pragma once
// The hosts that the ranks of a run are on, and how a group of ranks lies on them.

#include <cstdint>
#include <vector>

#include "suite/layout.h"

namespace strata::suite {

struct Machine {
    std::vector<int> host_of;          // of every rank
    std::vector<std::int64_t> memory;  // of every host, in bytes; the system takes its part of it
    int threads = 1;                   // of a rank
    std::int64_t gpu_memory = 0;       // free on every rank's GPU; 0: ranks compute on the CPU

    int ranks() const { return static_cast<int>(host_of.size()); }
    // What ranks may fill: nine tenths, the rest is for the system and what else runs.
    std::int64_t room(int host) const { return memory[static_cast<std::size_t>(host)] / 10 * 9; }
    // Of a GPU: nothing else runs there, but memory is given out in blocks.
    std::int64_t gpu_room() const { return gpu_memory / 20 * 19; }
};

// Ranks filled in host by host, `per_host` to each.
Machine equal_hosts(int ranks, int per_host, std::int64_t memory, int threads);

// Of a group.
struct Place {
    int ranks = 1;
    int on_host = 1;  // of them, on the host with the most
    int hosts = 1;
    int sharing = 1;  // that hold one copy of the weights: a host's, where all its hosts have as many and
                      // compute in its memory
    int threads = 1;  // of a rank
    bool on_gpus = false;
    bool operator==(const Place&) const = default;
    auto operator<=>(const Place&) const = default;
};
Place place_of(const Machine& machine, Ranks group);

}  // namespace strata::suite
