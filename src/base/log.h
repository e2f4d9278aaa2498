#pragma once
// The log goes to standard error; standard output is kept for results. Rank 0 speaks at `info`, the other
// ranks from `warn` on, each line with the rank that wrote it when there are several.

#include <spdlog/spdlog.h>

namespace strata {

// Call once, after the communicator is known. `quiet` leaves warnings and errors.
void start_log(int rank, int size, bool quiet);

namespace log = spdlog;

}  // namespace strata
