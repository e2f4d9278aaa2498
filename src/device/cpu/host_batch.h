#pragma once
// The batch of a host: the rows and codes of all ranks that share its memory, laid together, so that each of
// them makes the gradients of its latents over all rows. A gradient then is written once, by one rank, with
// the bits that one rank with all the rows would have given it.

#include <array>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "device/cpu/by_latent.h"
#include "device/device.h"

namespace strata::device {

// One set of a rank: its codes by latent, and R^(g) by group.
struct RankCodes {
    const ByLatent* codes;
    std::span<const Tiles> residual;
};

struct HostBatch {
    // Of all rows, those of each rank after those of the ranks before it.
    TileView centered;
    struct Set {
        ByLatent codes;  // of this rank's latents; the others have none
        std::vector<TileView> residual;
    };
    std::array<Set, 3> sets;

    SharedMemory memory;  // of the group's first rank
};

// Whether the rows laid together are the first of all ranks' batches, and the last.
struct HostRows {
    bool first = false, last = false;
};

// Lays together what the ranks have, of codes those of the latents `mine` of this rank. `rows`: a range of
// this rank's; `last`: its last one. Copies 8 n bytes a row and matrix, 24 bytes a code. Collective over
// `group`, which is done with what was laid together before.
HostRows gather_batch(HostBatch& host, Communicator& group, const Tiles& centered,
                      std::span<const RankCodes> sets, Slice rows, Slice mine, bool last, int threads);

}  // namespace strata::device
