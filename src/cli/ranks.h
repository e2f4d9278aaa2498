#pragma once
// Running a command on all ranks: MPI, the log, and one exit status for whatever goes wrong.

#include <functional>

#include "comm/communicator.h"

namespace strata::cli {

// Starts MPI, runs `work`, and returns its status, or that of the error it ended with. An error that struck
// this rank alone ends the others too.
int on_all_ranks(bool quiet, const std::function<int(Communicator&)>& work);

// Keeps freed memory: blocks over 32 MiB would otherwise go back to the system on every free, and their pages
// fault again on every use (docs/design.md, "Memory").
void keep_freed_memory();

}  // namespace strata::cli
