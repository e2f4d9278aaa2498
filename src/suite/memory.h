#pragma once
// What training takes of memory: an estimate, tensor by tensor, of what the program allocates and touches.

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "suite/layout.h"
#include "suite/machine.h"
#include "suite/suite.h"

namespace strata::suite {

// Bytes of one rank of a group while it trains a job; of what the ranks of a host share, its part.
struct RankMemory {
    std::int64_t weights = 0;     // W_enc and W_dec of all SAEs
    std::int64_t moments = 0;     // two of each
    std::int64_t vectors = 0;     // biases, own parameters, W_skip, with moments; counters of latents
    std::int64_t gradients = 0;   // of the widest SAE
    std::int64_t checkpoint = 0;  // the copy of what it saves
    std::int64_t stream = 0;      // rows to shuffle, two batches, a run
    std::int64_t rows = 0;        // the batch and its residuals, as rows and as tiles
    std::int64_t codes = 0;       // candidates and codes with their gradients, by row and by latent
    std::int64_t auxiliary = 0;   // codes of dead latents
    std::int64_t encoder = 0;     // integers of the screen, blocks of products, sums
    std::int64_t finish = 0;      // what the end of the job, or its beginning, takes beyond all that
    std::int64_t process = 0;     // the program and its libraries

    struct Part {
        std::string_view name;
        std::int64_t bytes;
    };
    std::array<Part, 12> parts() const;
    std::int64_t total() const;
};

// `first`: the first rank of the group, which saves the SAEs.
RankMemory rank_memory(const Job& job, const Config& config, const Place& place, bool first);

// The host whose ranks, each group training the largest job that other groups of the host leave it, come
// nearest to its room.
struct HostLoad {
    int host = 0;
    std::int64_t needed = 0, room = 0;
    std::int64_t shared_rows = 0;  // of `needed`: rows that groups share (data/shared_rows.h)
    std::size_t job = 0;           // the largest there
    Place place{};                 // of the group that trains it
    bool fits() const { return needed <= room; }
};
HostLoad fullest_host(const Config& config, const std::vector<Job>& jobs, int groups, const Machine& machine);

// layout_of() where every host has room for its ranks, and every GPU. Only where nothing has, and the
// configuration leaves them open, micro-batches get smaller. `kept`: of a run that is continued, whose SAEs
// of a job are given, and whose micro-batches get no larger. UsageError as of layout_of, or, where nothing
// has room, with what takes the memory and what would fit.
Layout layout_in_memory(const Config& config, const std::vector<data::Dataset>& datasets,
                        const Machine& machine, const std::optional<Layout>& kept = {});

}  // namespace strata::suite
