#pragma once
// MPI: starting it, ending it, and the communicator over all ranks.

#include <memory>

#include "comm/communicator.h"

namespace strata {

// Starts MPI for the life of the object, with threads that may call it at the same time; where MPI runs
// already it is left as it is. A program that was not started by mpirun or srun is one rank. RunError if MPI
// cannot serve several threads.
class MpiSession {
  public:
    MpiSession(int& argc, char**& argv);
    ~MpiSession();
    MpiSession(const MpiSession&) = delete;
    MpiSession& operator=(const MpiSession&) = delete;

  private:
    bool started_here_ = false;
};

// Over MPI_COMM_WORLD.
std::unique_ptr<Communicator> make_mpi_communicator();

}  // namespace strata
