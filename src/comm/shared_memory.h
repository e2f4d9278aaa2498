#pragma once
// Memory of the ranks of one host, mapped by all of them.

#include <cstddef>
#include <optional>

#include "comm/communicator.h"

namespace strata {

// Communicator::share() for ranks of one host. Collective. Each rank's memory is an anonymous file (memfd)
// that the others open through /proc: no limit of /dev/shm applies and no page is ever written to a disk, as
// happens to MPI's shared windows where their files lie on one.
std::optional<SharedMemory> share_memory(Communicator& comm, std::size_t bytes);

}  // namespace strata
