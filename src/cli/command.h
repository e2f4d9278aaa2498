#pragma once
// A subcommand adds itself to the command line and, when chosen, sets `action`.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <functional>

namespace strata::cli {

using Action = std::function<int()>;  // returns the exit status

// In place of CLI11's own, which take `nan` and print their upper end, of 309 digits.
inline CLI::Validator number_from(double least, bool included) {
    return {[=](const std::string& text) {
                double value = 0;
                const bool good = CLI::detail::lexical_cast(text, value) && std::isfinite(value) &&
                                  (included ? value >= least : value > least);
                return good ? std::string()
                            : fmt::format("{} is not a number {} {}", text, included ? ">=" : ">", least);
            },
            ""};
}
inline const CLI::Validator positive = number_from(0, false);
inline const CLI::Validator not_negative = number_from(0, true);

void add_train_command(CLI::App& app, Action& action);
void add_eval_command(CLI::App& app, Action& action);
void add_bench_command(CLI::App& app, Action& action);
void add_plan_command(CLI::App& app, Action& action);
void add_status_command(CLI::App& app, Action& action);
void add_info_command(CLI::App& app, Action& action);

}  // namespace strata::cli
