// strata: the command line. One file per subcommand; see --help.

#include <CLI/CLI.hpp>
#include <exception>

#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/data_command.h"
#include "comm/agree.h"

int main(int argc, char** argv) try {
    strata::keep_freed_memory();

    CLI::App app{"Trains sparse autoencoders on stored language-model activations, over MPI."};
    app.set_version_flag("--version", "strata " STRATA_VERSION);
    app.require_subcommand(1);
    app.footer("Example: mpirun -n 2 strata train configs/quickstart.yaml");
    strata::cli::Action action;
    strata::cli::add_train_command(app, action);
    strata::cli::add_status_command(app, action);
    strata::cli::add_eval_command(app, action);
    strata::add_data_command(app, action);
    strata::cli::add_plan_command(app, action);
    strata::cli::add_bench_command(app, action);
    strata::cli::add_info_command(app, action);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? strata::exit_done : strata::exit_usage;
    }
    return action();
} catch (...) {
    strata::start_log(0, 1, false);
    return strata::report(std::current_exception());
}
