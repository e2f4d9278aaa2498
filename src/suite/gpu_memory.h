#pragma once
// What training takes of a GPU's memory: the estimate of memory.h for what lies there.

#include "suite/memory.h"

namespace strata::suite {

// Bytes on the GPU of one rank of a group while it trains a job. What does not lie there is 0.
RankMemory gpu_memory(const Job& job, const Config& config, const Place& place);

// The group whose largest job comes nearest to what a GPU has free; nothing where ranks compute on the CPU.
// `place` is the group's.
struct GpuLoad {
    std::int64_t needed = 0, room = 0;
    std::size_t job = 0;
    Place place{};
    bool fits() const { return needed <= room; }
};
GpuLoad fullest_gpu(const Config& config, const std::vector<Job>& jobs, int groups, const Machine& machine);

}  // namespace strata::suite
