#pragma once
// Ends all ranks when one of them falls silent: stopped, lost with its host, or cut off by a broken link.
// (One that dies is noticed by the launcher.) A thread of every rank sends rank 0 a sign of life, with what
// the rank is doing, and rank 0 answers. Rank 0 ends the run, naming the rank, when it has missed one for
// `limit` seconds; the others do when they have missed rank 0, a quarter later, so that one message comes out
// if one can. A process that was itself stopped for a while (a suspended job) begins to count anew.

#include <atomic>
#include <memory>
#include <thread>

#include "comm/communicator.h"

namespace strata {

class Watchdog {
  public:
    // Collective over `comm`. limit 0, or one rank: nothing is watched.
    Watchdog(Communicator& comm, double limit);
    // Collective, but where an error ends this rank: ranks must not leave while others still watch them.
    ~Watchdog();

  private:
    void run();
    double limit_;
    int errors_;  // under way when it was made
    std::unique_ptr<Communicator> pulse_;
    std::atomic<bool> ending_ = false;
    std::thread thread_;
};

}  // namespace strata
