#pragma once
// A subcommand adds itself to the command line and, when chosen, sets `action`.

#include <CLI/CLI.hpp>
#include <functional>

namespace strata::cli {

using Action = std::function<int()>;  // returns the exit status

void add_train_command(CLI::App& app, Action& action);
void add_eval_command(CLI::App& app, Action& action);
void add_bench_command(CLI::App& app, Action& action);
void add_plan_command(CLI::App& app, Action& action);
void add_status_command(CLI::App& app, Action& action);
void add_info_command(CLI::App& app, Action& action);

}  // namespace strata::cli
