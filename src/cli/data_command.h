#pragma once
// strata data synth | info | check: make, describe and verify activation files. One process, no MPI.

#include <functional>

namespace CLI {
class App;
}

namespace strata {

// Adds `data` with its subcommands. Choosing one sets `action`, which does the work and returns the exit
// status.
void add_data_command(CLI::App& app, std::function<int()>& action);

// What that takes for `data synth`.
void add_data_synth_command(CLI::App& data_app, std::function<int()>& action);

}  // namespace strata
