#include <string>
#include <vector>

#include "base/stop.h"
#include "cli/command.h"
#include "strata/train.h"

namespace strata::cli {

void add_train_command(CLI::App& app, Action& action) {
    struct Arguments {
        std::string config;
        std::vector<std::string> set;
        TrainOptions options;
    };
    auto arguments = std::make_shared<Arguments>();
    CLI::App* command = app.add_subcommand("train", "Trains every SAE of a configuration");
    command->add_option("config", arguments->config, "Configuration, YAML (docs/configuration.md)")
        ->required();
    command->add_option("--set", arguments->set, "section.key=value, on top of the file; may be repeated")
        ->allow_extra_args(false);
    command->add_flag(
        "--resume", arguments->options.resume,
        "Continue the newest complete checkpoint in run.output; start anew where there is none");
    command->add_flag("--quiet", arguments->options.quiet, "No progress, only warnings and errors");
    command->footer(
        "Exit status: 0 done, 1 failed, 2 wrong use or configuration (nothing was written), 75 stopped on "
        "request\n"
        "with a checkpoint saved.\n"
        "Example: mpirun -n 2 strata train configs/quickstart.yaml --set train.tokens=1e6 --resume");
    command->callback([arguments, &action] {
        action = [arguments] {
            catch_stop_signals();
            return run_training(arguments->config, arguments->set, arguments->options);
        };
    });
}

}  // namespace strata::cli
