// `strata data synth`.

#include <CLI/CLI.hpp>
#include <cmath>

#include "base/error.h"
#include "base/stop.h"
#include "cli/data_command.h"
#include "cli/row_progress.h"
#include "data/synth.h"

namespace strata {
namespace {

// A whole number that may be written as 1e6.
void add_count(CLI::App& app, const std::string& name, std::int64_t& target, const std::string& help) {
    app.add_option_function<double>(
           name,
           [&target, name](double value) {
               if (!(value >= 1 && value <= 1e15) || value != std::floor(value))
                   throw CLI::ValidationError(name,
                                              fmt::format("{} is not a whole number of at least 1", value));
               target = static_cast<std::int64_t>(value);
           },
           help)
        ->default_str(std::to_string(target))
        ->type_name("COUNT");
}

struct SynthOptions {
    std::string out;
    data::SynthConfig config;
};

int run_synth(const SynthOptions& options) {
    const data::SynthConfig& c = options.config;
    {
        RowProgress progress(options.out, c.rows);
        data::write_synthetic(options.out, c, std::ref(progress));
    }
    fmt::print("{}: resid_post/0 [{}, {}] {}, {} true features in true_features\n", options.out, c.rows, c.n,
               data::name_of(c.type), c.features);
    return exit_done;
}

}  // namespace

void add_data_synth_command(CLI::App& data_app, std::function<int()>& action) {
    const auto options = std::make_shared<SynthOptions>();
    data::SynthConfig& c = options->config;
    CLI::App* app = data_app.add_subcommand("synth", "Make activations whose true features are known");
    app->add_option("--out", options->out, "file to write; never overwritten")->required();
    add_count(*app, "--rows", c.rows, "rows");
    add_count(*app, "--n", c.n, "dimensions");
    add_count(*app, "--features", c.features, "true features");
    app->add_option("--active", c.active, "mean number of features that fire in a row")
        ->capture_default_str();
    app->add_option("--seed", c.seed, "the same seed makes the same file")->capture_default_str();
    const std::map<std::string, data::Type> types = {{"float16", data::Type::float16},
                                                     {"bfloat16", data::Type::bfloat16},
                                                     {"float32", data::Type::float32}};
    app->add_option("--dtype", c.type, "float16, bfloat16 or float32")
        ->transform(CLI::CheckedTransformer(types, CLI::ignore_case).description(""))
        ->default_str("float16");
    app->add_option("--power", c.power, "a feature's frequency falls as rank^-POWER")->capture_default_str();
    app->add_option("--spread", c.spread, "standard deviation of the logarithm of magnitudes")
        ->capture_default_str();
    app->add_option("--grouped", c.grouped, "share of features in groups of four that fire together")
        ->capture_default_str();
    app->add_option("--children", c.children, "share of features that fire only with a parent")
        ->capture_default_str();
    app->add_option("--noise", c.noise, "root mean square of the noise relative to that of the features")
        ->capture_default_str();
    app->add_option("--mean", c.mean, "share of the mean in the mean squared norm")->capture_default_str();
    app->footer(
        "Writes dataset resid_post/0 and beside it true_features, true_frequencies, true_mean.\n"
        "Example: strata data synth --out demo.h5 --rows 1e6 --n 128 --features 512 --active 8");
    app->callback([options, &action] {
        action = [options] {
            catch_stop_signals();
            return run_synth(*options);
        };
    });
}

}  // namespace strata
