#pragma once
// What the host of this process has to give.

#include <cstdint>
#include <filesystem>

namespace strata {

// Bytes of memory that processes like this one may fill together: the machine's, or the least limit of the
// control groups that hold it (version 1 or 2), where one is smaller. `root`: where proc and sys are mounted.
// RunError where the machine does not tell.
std::int64_t host_memory(const std::filesystem::path& root = "/");

}  // namespace strata
