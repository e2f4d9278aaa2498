#include "suite/machine.h"

#include <algorithm>
#include <map>

namespace strata::suite {

Machine equal_hosts(int ranks, int per_host, std::int64_t memory, int threads) {
    Machine machine;
    for (int r = 0; r < ranks; ++r) machine.host_of.push_back(r / per_host);
    machine.memory.assign(static_cast<std::size_t>((ranks + per_host - 1) / per_host), memory);
    machine.threads = threads;
    return machine;
}

Place place_of(const Machine& machine, Ranks group) {
    std::map<int, int> on_host;
    for (int r = group.first; r < group.last; ++r) ++on_host[machine.host_of[static_cast<std::size_t>(r)]];
    int most = 0;
    bool even = true;
    for (const auto& [host, ranks] : on_host) {
        even = even && ranks == on_host.begin()->second;
        most = std::max(most, ranks);
    }
    const bool on_gpus = machine.gpu_memory > 0;
    return {group.size(),    most,   static_cast<int>(on_host.size()), even && !on_gpus ? most : 1,
            machine.threads, on_gpus};
}

}  // namespace strata::suite
