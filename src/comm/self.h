#pragma once
// One rank, no messages.

#include <memory>

#include "comm/communicator.h"

namespace strata {

std::unique_ptr<Communicator> make_self_communicator();

}  // namespace strata
