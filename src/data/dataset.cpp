#include "data/dataset.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "data/corrupt.h"
#include "data/inspect.h"

namespace strata::data {
namespace {

constexpr std::size_t most_problems = 20;  // a message longer than a screen is not read
constexpr std::size_t most_names = 12;

// What was found in one file.
struct FoundFile {
    std::string path;
    std::map<std::string, Entry> entries;
    std::vector<std::string> others;  // all names in it; filled where nothing matched
};

[[noreturn]] void refuse_all(const std::vector<std::string>& problems) {
    const std::size_t shown = std::min(problems.size(), most_problems);
    std::string text = fmt::format(
        "{}", fmt::join(problems.begin(), problems.begin() + static_cast<std::ptrdiff_t>(shown), "\n"));
    if (shown < problems.size()) text += fmt::format("\n... and {} more like these", problems.size() - shown);
    throw UsageError(text);
}

std::string list_of(const std::vector<std::string>& names) {
    if (names.empty()) return "no datasets";
    const auto shown = static_cast<std::ptrdiff_t>(std::min(names.size(), most_names));
    std::string text = fmt::format("{}", fmt::join(names.begin(), names.begin() + shown, ", "));
    if (names.size() > most_names) text += fmt::format(" and {} more", names.size() - most_names);
    return text;
}

FoundFile look_into(const std::string& path, const std::vector<std::string>& patterns) {
    const Handle file = open_file(path);
    FoundFile found{path, {}, {}};
    std::vector<std::string> names;
    if (std::ranges::any_of(patterns, is_glob)) names = dataset_names(file);
    for (const std::string& pattern : patterns) {
        if (!is_glob(pattern)) {
            if (auto entry = describe(file, path, pattern)) found.entries.emplace(pattern, std::move(*entry));
            continue;
        }
        for (const std::string& name : names) {
            if (!matches_name(pattern, name) || found.entries.contains(name)) continue;
            if (auto entry = describe(file, path, name); entry && is_activations(*entry))
                found.entries.emplace(name, std::move(*entry));
        }
    }
    if (found.entries.empty()) found.others = dataset_names(file);
    return found;
}

// Where one file holds two names, every file with one of them must hold the other.
void find_gaps(const std::vector<FoundFile>& files, std::vector<std::string>& problems) {
    std::map<std::string, std::map<std::string, std::string>> together;  // name, name: a file with both
    for (const FoundFile& file : files)
        for (const auto& [a, ignored_a] : file.entries)
            for (const auto& [b, ignored_b] : file.entries) together[a].try_emplace(b, file.path);
    for (const FoundFile& file : files) {
        std::set<std::string> missing;
        for (const auto& [a, ignored] : file.entries)
            for (const auto& [b, witness] : together[a])
                if (!file.entries.contains(b) && missing.insert(b).second)
                    problems.push_back(
                        fmt::format("{}: {} is missing, though the file holds {} and {} holds both; their "
                                    "rows would not belong "
                                    "together: complete the file, or leave it or one of the names out",
                                    file.path, b, a, witness));
    }
}

// Some names that there are, for messages that one is not; "" if none were listed.
std::string names_in_one_of(const std::vector<FoundFile>& files) {
    const auto found =
        std::ranges::find_if(files, [](const FoundFile& file) { return !file.others.empty(); });
    return found == files.end() ? "" : fmt::format("; {} holds {}", found->path, list_of(found->others));
}

void find_unmatched(const std::vector<FoundFile>& files, const std::vector<std::string>& patterns,
                    std::vector<std::string>& problems) {
    for (const std::string& pattern : patterns) {
        const bool found = std::ranges::any_of(files, [&](const FoundFile& file) {
            return std::ranges::any_of(file.entries, [&](const auto& e) {
                return e.first == pattern || matches_name(pattern, e.first);
            });
        });
        if (found) continue;
        problems.push_back(fmt::format("{}: no dataset of this name in {}{}", pattern,
                                       files.size() == 1 ? files[0].path : "any of the files",
                                       names_in_one_of(files)));
    }
}

// Adds the targets of all datasets found so far. What is missing is told with the datasets that lack it.
void look_for_targets(std::vector<FoundFile>& files, const std::string& target,
                      std::vector<std::string>& problems) {
    std::map<std::string, std::string> inputs;  // by the name of their target
    for (const FoundFile& file : files)
        for (const auto& [name, ignored] : file.entries) inputs.try_emplace(target_name(target, name), name);
    std::vector<std::string> names;
    for (const auto& [name, ignored] : inputs) names.push_back(name);
    for (FoundFile& file : files) {
        FoundFile more = look_into(file.path, names);
        for (const auto& [name, ignored] : more.entries) inputs.erase(name);
        file.entries.merge(more.entries);
        if (file.others.empty()) file.others = std::move(more.others);
    }
    for (const auto& [name, input] : inputs)
        problems.push_back(
            fmt::format("{}: no dataset of this name to be the target of {} (data.target: {}){}", name, input,
                        target, names_in_one_of(files)));
}

// What keeps the rows of a dataset and of its target from belonging together.
void compare_rows(const Dataset& dataset, const Dataset& target, std::vector<std::string>& problems) {
    if (dataset.n != target.n)
        problems.push_back(fmt::format(
            "{} has n = {}, its target {} has n = {}; inputs and targets of different width are not "
            "supported",
            dataset.name, dataset.n, target.name, target.n));
    const auto amount = [](const Dataset& d) {
        return fmt::format("{} rows in {} file{}", d.rows, d.parts.size(), d.parts.size() == 1 ? "" : "s");
    };
    if (dataset.parts.size() != target.parts.size())
        problems.push_back(fmt::format(
            "{} has {}, its target {} has {}; row i of both must be of the same token, file by file",
            dataset.name, amount(dataset), target.name, amount(target)));
    else
        for (std::size_t i = 0; i < dataset.parts.size(); ++i) {
            const FilePart& a = dataset.parts[i];
            const FilePart& b = target.parts[i];
            if (a.rows == b.rows) continue;
            problems.push_back(fmt::format(
                "{}: {} has {} rows, its target {} has {}{}; row i of both must be of the same token", a.path,
                dataset.name, a.rows, target.name, b.rows, a.path == b.path ? "" : " in " + b.path));
        }
}

}  // namespace

std::vector<Dataset> find_datasets(const std::vector<std::string>& file_patterns,
                                   const std::vector<std::string>& name_patterns, const std::string& target,
                                   bool skip_corrupt) {
    if (file_patterns.empty())
        refuse("no activation files are named; name at least one, as in activations/*.h5");
    if (name_patterns.empty())
        refuse("no datasets are named; name at least one, as in resid_post/12 or resid_post/*");
    std::vector<std::string> patterns;
    for (const std::string& pattern : name_patterns) patterns.push_back(tidy_name(pattern));

    std::vector<std::string> problems;
    std::vector<FoundFile> files;
    for (const std::string& path : expand_files(file_patterns, problems)) {
        try {
            files.push_back(look_into(path, patterns));
        } catch (const UsageError& error) {
            problems.emplace_back(error.what());
        }
    }
    if (!files.empty()) find_unmatched(files, patterns, problems);
    std::set<std::string, decltype(&natural_less)> asked_for(natural_less);
    for (const FoundFile& file : files)
        for (const auto& [name, ignored] : file.entries) asked_for.insert(name);
    if (!target.empty()) {
        look_for_targets(files, target, problems);
        patterns.push_back(target);
    }
    if (problems.empty()) {
        for (const FoundFile& file : files)
            if (file.entries.empty())
                problems.push_back(fmt::format(
                    "{}: holds none of the datasets asked for ({}), but {}; leave the file out or "
                    "correct the names",
                    file.path, fmt::join(patterns, ", "), list_of(file.others)));
        find_gaps(files, problems);
    }

    std::map<std::string, Dataset> datasets;
    for (FoundFile& file : files)
        for (auto& [name, entry] : file.entries) {
            if (!entry.problem.empty()) {
                problems.push_back(fmt::format("{}: {} {}", file.path, name, entry.problem));
                continue;
            }
            Dataset& dataset = datasets[name];
            if (dataset.parts.empty()) {
                dataset.name = name;
                dataset.n = entry.shape[1];
            } else if (dataset.n != entry.shape[1]) {
                problems.push_back(
                    fmt::format("{}: {} has n = {}, but {} in {}; the files of one dataset must agree",
                                file.path, name, entry.shape[1], dataset.n, dataset.parts[0].path));
                continue;
            }
            entry.part.first = dataset.rows;
            dataset.rows += entry.part.rows;
            dataset.parts.push_back(std::move(entry.part));
        }
    if (!problems.empty()) refuse_all(problems);
    if (skip_corrupt)
        for (auto& [name, dataset] : datasets) dataset.corrupt = std::make_shared<CorruptChunks>();

    std::vector<Dataset> result;
    for (const std::string& name : asked_for) {
        result.push_back(datasets.at(name));
        if (target.empty()) continue;
        const Dataset& paired = datasets.at(target_name(target, name));
        compare_rows(result.back(), paired, problems);
        result.back().target = std::make_shared<const Dataset>(paired);
    }
    if (!problems.empty()) refuse_all(problems);
    return result;
}

std::string target_name(const std::string& target, const std::string& dataset) {
    std::string name = target;
    if (const std::size_t star = name.find('*'); star != std::string::npos)
        name.replace(star, 1, dataset.substr(dataset.rfind('/') + 1));
    return tidy_name(name);
}

const FilePart& part_of(const Dataset& dataset, std::int64_t row) {
    STRATA_ASSERT(row >= 0 && row < dataset.rows);
    return *std::prev(std::ranges::upper_bound(dataset.parts, row, {}, &FilePart::first));
}

std::string place_of(const Dataset& dataset, std::int64_t row) {
    const FilePart& part = part_of(dataset, row);
    return fmt::format("{}: {}: row {}", part.path, dataset.name, row - part.first);
}

}  // namespace strata::data
