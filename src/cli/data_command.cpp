#include "cli/data_command.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/stop.h"
#include "cli/row_progress.h"
#include "data/check.h"
#include "data/inspect.h"

namespace strata {
namespace {

using nlohmann::json;

// ---- info

struct FileOptions {
    std::vector<std::string> files;
    std::vector<std::string> datasets = {"**"};
    bool as_json = false;
};

std::string attributes_of(const data::FilePart& part) {
    std::vector<std::string> all;
    if (!part.model.empty()) all.push_back("model=" + part.model);
    if (!part.site.empty()) all.push_back("site=" + part.site);
    if (part.layer >= 0) all.push_back(fmt::format("layer={}", part.layer));
    if (part.mean_sq_norm >= 0) all.push_back(fmt::format("mean_sq_norm={:.6g}", part.mean_sq_norm));
    return fmt::format("{}", fmt::join(all, " "));
}

std::string chunks_of(const data::FilePart& part) {
    if (part.virtual_rows) return "virtual";
    return part.chunk_rows > 0 ? fmt::format("{} rows", part.chunk_rows) : "none";
}

json to_json(const data::Entry& entry) {
    json j = {
        {"file", entry.part.path}, {"dataset", entry.name}, {"shape", entry.shape}, {"dtype", entry.type}};
    j["problem"] = entry.problem.empty() ? json() : json(entry.problem);
    if (!entry.problem.empty()) return j;
    j["rows"] = entry.part.rows;
    j["n"] = entry.shape[1];
    j["chunk_rows"] = entry.part.chunk_rows;
    j["checksum"] = entry.part.checksummed;
    j["filters"] = entry.part.filters;
    if (!entry.part.model.empty()) j["model"] = entry.part.model;
    if (!entry.part.site.empty()) j["site"] = entry.part.site;
    if (entry.part.layer >= 0) j["layer"] = entry.part.layer;
    if (entry.part.mean_sq_norm >= 0) j["mean_sq_norm"] = entry.part.mean_sq_norm;
    return j;
}

void print_table(const std::vector<std::vector<std::string>>& lines) {
    std::vector<std::size_t> widths(lines.front().size());
    for (const auto& line : lines)
        for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
    for (const auto& line : lines) {
        std::string text;
        for (std::size_t i = 0; i < line.size(); ++i) text += fmt::format("{:<{}}", line[i], widths[i] + 2);
        fmt::print("{}\n", text.substr(0, text.find_last_not_of(' ') + 1));
    }
}

int run_info(const FileOptions& options) {
    std::vector<std::string> problems;
    std::vector<data::Entry> entries;
    for (const std::string& path : data::expand_files(options.files, problems)) try {
            const data::Handle file = data::open_file(path);
            for (const std::string& name : data::dataset_names(file))
                if (auto entry = data::describe(file, path, name)) entries.push_back(std::move(*entry));
        } catch (const UsageError& error) {
            problems.emplace_back(error.what());
        }
    if (options.as_json) {
        json all = json::array();
        for (const data::Entry& entry : entries) all.push_back(to_json(entry));
        fmt::print("{}\n", all.dump(2));
    } else if (!entries.empty()) {
        std::vector<std::vector<std::string>> lines = {
            {"FILE", "DATASET", "SHAPE", "DTYPE", "CHUNKS", "FILTERS", "ATTRIBUTES"}};
        for (const data::Entry& e : entries) {
            const bool usable = e.problem.empty();
            lines.push_back({e.part.path, e.name, fmt::format("[{}]", fmt::join(e.shape, ", ")), e.type,
                             usable ? chunks_of(e.part) : "", usable ? e.part.filters : "",
                             usable                    ? attributes_of(e.part)
                             : data::is_activations(e) ? "not usable: " + e.problem
                                                       : ""});
        }
        print_table(lines);
    }
    if (!problems.empty()) refuse("{}", fmt::join(problems, "\n"));
    return exit_done;
}

// ---- check

json to_json(const data::Dataset& dataset, const data::CheckReport& r) {
    std::vector<std::string> files;
    for (const data::FilePart& part : dataset.parts) files.push_back(part.path);
    return {{"dataset", dataset.name},
            {"ok", !r.wrong()},
            {"files", files},
            {"rows", r.rows},
            {"n", dataset.n},
            {"unreadable_rows", r.unreadable_rows},
            {"failures", r.failures},
            {"non_finite_values", r.non_finite_values},
            {"non_finite_rows", r.non_finite_rows},
            {"first_non_finite", r.first_non_finite.empty() ? json() : json(r.first_non_finite)},
            {"min_norm", r.min_norm},
            {"median_norm", r.median_norm},
            {"max_norm", r.max_norm},
            {"mean_sq_norm", r.mean_square},
            {"sinks", r.sinks},
            {"zero_rows", r.zero_rows},
            {"duplicate_rows", r.duplicate_rows},
            {"duplicates_estimated", r.duplicates_estimated},
            {"notes", r.notes}};
}

void print_report(const data::Dataset& dataset, const data::CheckReport& r) {
    fmt::print(
        "{}: {}: {} rows x {} in {} file{}; norm min {:.4g}, median {:.4g}, max {:.4g}, mean square {:.6g}; "
        "{} rows over "
        "10x the median, {}{} duplicates\n",
        dataset.name, r.wrong() ? "WRONG" : "ok", r.rows, dataset.n, dataset.parts.size(),
        dataset.parts.size() == 1 ? "" : "s", r.min_norm, r.median_norm, r.max_norm, r.mean_square, r.sinks,
        r.duplicates_estimated ? "about " : "", r.duplicate_rows);
    if (r.unreadable_rows > 0) fmt::print("  {} rows cannot be read:\n", r.unreadable_rows);
    for (const std::string& failure : r.failures) fmt::print("    {}\n", failure);
    if (r.non_finite_values > 0)
        fmt::print("  {} values in {} rows are not finite, the first: {}\n", r.non_finite_values,
                   r.non_finite_rows, r.first_non_finite);
    if (r.zero_rows > 0) fmt::print("  {} rows are all zero: padding, or never written\n", r.zero_rows);
    for (const std::string& note : r.notes) fmt::print("  note: {}\n", note);
}

int run_check(const FileOptions& options) {
    const data::Survey survey = data::survey(options.files, options.datasets);
    bool ok = survey.problems.empty();
    json all = json::array();
    for (const data::Dataset& dataset : survey.datasets) {
        const data::CheckReport report = [&] {
            RowProgress progress(dataset.name, dataset.rows);
            return data::check(dataset, std::ref(progress));
        }();
        ok = ok && !report.wrong();
        if (options.as_json)
            all.push_back(to_json(dataset, report));
        else
            print_report(dataset, report);
        std::fflush(stdout);
    }
    if (options.as_json)
        fmt::print("{}\n", json{{"ok", ok}, {"problems", survey.problems}, {"datasets", all}}.dump(2));
    else
        for (const std::string& problem : survey.problems) fmt::print("WRONG: {}\n", problem);
    if (survey.datasets.empty() && survey.problems.empty())
        refuse("{}: no activations in there", fmt::join(options.files, ", "));
    return ok ? exit_done : exit_failed;
}

void add_file_command(CLI::App& data_app, std::function<int()>& action, const std::string& name,
                      const std::string& help, const std::string& footer, bool choose_datasets,
                      int (*run)(const FileOptions&)) {
    const auto options = std::make_shared<FileOptions>();
    CLI::App* app = data_app.add_subcommand(name, help);
    app->add_option("files", options->files, "HDF5 files; globs")->required();
    if (choose_datasets)
        app->add_option("--dataset", options->datasets,
                        "names inside the files; globs; default: all activations")
            ->type_name("NAME")
            ->allow_extra_args(false);
    app->add_flag("--json", options->as_json, "print JSON");
    app->footer(footer);
    app->callback([options, &action, run] {
        action = [options, run] {
            catch_stop_signals();
            return run(*options);
        };
    });
}

}  // namespace

void add_data_command(CLI::App& app, std::function<int()>& action) {
    CLI::App* data_app = app.add_subcommand("data", "Make, describe, verify activation files");
    data_app->require_subcommand(1);
    data_app->footer("Example: strata data info activations/*.h5");
    add_data_synth_command(*data_app, action);
    add_file_command(*data_app, action, "info",
                     "What is in files: datasets, shapes, types, chunks, checksums, attributes",
                     "Reads no rows. Example: strata data info activations/*.h5", false, run_info);
    add_file_command(
        *data_app, action, "check", "Read everything and report what is wrong",
        "Exit status 1 if a file or chunk cannot be read, a value is not finite, or rows are all zero.\n"
        "Example: strata data check activations/*.h5 --dataset 'resid_post/*'",
        true, run_check);
}

}  // namespace strata
