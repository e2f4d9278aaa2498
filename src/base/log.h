#pragma once
// The log goes to standard error; standard output is kept for results. There rank 0 speaks at `info`, the
// other ranks from `warn` on, each line with the rank that wrote it when there are several. A file for each
// rank has all of it.

#include <spdlog/spdlog.h>

#include <filesystem>
#include <string>

namespace strata {

// Call once, after the communicator is known. `quiet` leaves warnings and errors on the screen.
void start_log(int rank, int size, bool quiet);

// From now on everything of this rank, from `info` on, is added to FOLDER/rank-N.log as well, with the time
// in UTC, as in `2026-01-01T00:00:00.000Z warning: ...`. A file that cannot be written costs a warning, no
// more; once it can be again, on a disk that was full, it goes on.
void keep_log(const std::filesystem::path& folder, int rank);

// Now, as the files have it.
std::string log_time();

namespace log = spdlog;

}  // namespace strata
