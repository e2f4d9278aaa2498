#pragma once
// Errors that concern every rank: either all go on or all end, with one message.

#include <exception>
#include <functional>

#include "comm/communicator.h"

namespace strata {

// Thrown on all ranks once the message is out; main() ends with the status.
struct Ended {
    int status;
};

// Runs `work` on every rank. If it throws on any, the lowest such rank logs its message and Ended is thrown
// on all. `work` must not call collectives after a point where it may throw on some ranks only.
void together(Communicator& comm, const std::function<void()>& work);

// Logs an exception, as main() does for those that end one rank; returns the exit status it stands for.
int report(const std::exception_ptr& error);

}  // namespace strata
