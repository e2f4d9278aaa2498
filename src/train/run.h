#pragma once
// `strata train`: the whole of a run, from configuration to saved SAEs.

#include <string>

#include "comm/communicator.h"
#include "config/config.h"

namespace strata::train {

struct RunOptions {
    bool resume = false;  // continue the newest complete checkpoint, or start anew where there is none
    bool quiet = false;   // no bar, no log below warnings
};

// Collective. Returns exit_done, or exit_stopped after a requested stop with a checkpoint saved. Errors that
// concern all ranks end as Ended; others are thrown on the rank they struck.
int run(const Config& config, const RunOptions& options, Communicator& comm);

}  // namespace strata::train
