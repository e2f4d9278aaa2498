#pragma once
// The ways in which tests at several ranks divide them, and the rows among them.

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "support/test_device.h"

namespace strata::test {

// Sizes of train::Replicas' groups: 0, the ranks of a host in one, which share memory; 1, each alone; 2,
// groups that share memory and reduce among each other.
inline std::vector<int> divisions() {
    if (!shares_memory) return {1};
    const int ranks = make_mpi_communicator()->size();
    std::vector<int> sizes = {0};
    if (ranks > 1) sizes.push_back(1);
    if (ranks > 2 && ranks % 2 == 0) sizes.push_back(2);
    return sizes;
}

inline std::string name_of_division(int group_size) {
    return group_size == 0 ? "by_host" : fmt::format("groups_of_{}", group_size);
}

// The first row of a rank: consecutive slices, no two alike at three ranks; or none for the first rank, as
// where no lane of the stream is its.
inline std::int64_t first_row(std::int64_t rows, int rank, int ranks, bool first_rank_idle) {
    if (first_rank_idle && ranks > 1) return rank == 0 ? 0 : rows * (rank - 1) / (ranks - 1);
    return rows * rank / ranks;
}

}  // namespace strata::test
