#pragma once
// Running a training from C++, as `strata train` does.

#include <string>
#include <vector>

namespace strata {

struct TrainOptions {
    bool resume =
        false;  // continue the newest complete checkpoint in run.output, or start anew where there is none
    bool quiet = false;  // no progress, only warnings and errors
};

// Trains every SAE of a configuration file on all ranks of MPI_COMM_WORLD; every rank calls it. `settings`
// are "section.key=value", on top of the file. Starts and ends MPI, once in a program's life, unless it runs
// already (with MPI_THREAD_MULTIPLE).
//
// Returns the exit status: 0 done, 1 failed, 2 wrong configuration or input (nothing was written), 75 stopped
// with a checkpoint saved, by run.time_limit. Errors are told
// on standard error, once; an error that strikes one rank alone ends the others' processes.
//
// Signals are the program's own affair. Their handlers must not run on threads that train (the caller's, and
// those that OpenMP starts for it): oneDNN up to 3.11 keeps its stack pointer on the heap while it
// multiplies, where a handler's frame overwrites the program's memory. Block them there, or wait for them
// elsewhere.
int run_training(const std::string& config_file, const std::vector<std::string>& settings = {},
                 const TrainOptions& options = {});

}  // namespace strata
