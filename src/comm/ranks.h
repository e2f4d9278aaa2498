#pragma once
// Running something on all ranks: MPI, the log, and one exit status for whatever goes wrong.

#include <functional>

#include "comm/communicator.h"

namespace strata {

// Starts MPI, runs `work`, and returns its status, or that of the error it ended with. An error that struck
// this rank alone ends the others too.
int on_all_ranks(bool quiet, const std::function<int(Communicator&)>& work);

}  // namespace strata
