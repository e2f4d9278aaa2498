#include <unistd.h>

#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/stop.h"
#include "cli/command.h"
#include "train/status.h"

namespace strata::cli {
namespace {

struct Arguments {
    std::string run;
    bool watch = false, json = false;
};

int show_status(const Arguments& arguments) {
    if (arguments.watch && isatty(STDOUT_FILENO) == 0)
        refuse("--watch: standard output is not a terminal; leave it out for a single report");
    while (true) {
        const train::RunStatus status = train::read_status(arguments.run);
        const std::int64_t now = std::time(nullptr);
        if (arguments.watch) fmt::print("\033[H\033[2J");
        if (arguments.json)
            fmt::print("{}\n", to_json(status, now).dump());
        else
            fmt::print("{}: {}", arguments.run, to_text(status, now));
        std::fflush(stdout);
        if (!arguments.watch || status.done()) return exit_done;
        for (int tenths = 0; tenths < 20; ++tenths) {
            if (stop_requested()) return exit_done;
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
        }
    }
}

}  // namespace

void add_status_command(CLI::App& app, Action& action) {
    auto arguments = std::make_shared<Arguments>();
    CLI::App* command = app.add_subcommand("status", "How a run stands, from the files that it writes");
    command->add_option("run", arguments->run, "Output folder (run.output)")->required();
    CLI::Option* json = command->add_flag("--json", arguments->json, "One JSON object");
    command->add_flag("--watch", arguments->watch, "Every two seconds anew until the run is done")
        ->excludes(json);
    command->footer("Example: strata status runs/suite --watch");
    command->callback([arguments, &action] { action = [arguments] { return show_status(*arguments); }; });
}

}  // namespace strata::cli
