#include "data/dataset.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
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

void find_unmatched(const std::vector<FoundFile>& files, const std::vector<std::string>& patterns,
                    std::vector<std::string>& problems) {
    for (const std::string& pattern : patterns) {
        const bool found = std::ranges::any_of(files, [&](const FoundFile& file) {
            return std::ranges::any_of(file.entries, [&](const auto& e) {
                return e.first == pattern || matches_name(pattern, e.first);
            });
        });
        if (found) continue;
        const auto with_names =
            std::ranges::find_if(files, [](const FoundFile& file) { return !file.others.empty(); });
        problems.push_back(
            fmt::format("{}: no dataset of this name in {}{}", pattern,
                        files.size() == 1 ? files[0].path : "any of the files",
                        with_names == files.end()
                            ? ""
                            : fmt::format("; {} holds {}", with_names->path, list_of(with_names->others))));
    }
}

}  // namespace

std::size_t size_of(Type type) {
    return type == Type::float32 ? 4 : 2;
}

const char* name_of(Type type) {
    switch (type) {
        case Type::float16:
            return "float16";
        case Type::bfloat16:
            return "bfloat16";
        case Type::float32:
            break;
    }
    return "float32";
}

std::vector<Dataset> find_datasets(const std::vector<std::string>& file_patterns,
                                   const std::vector<std::string>& name_patterns) {
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
    if (problems.empty()) {
        for (const FoundFile& file : files)
            if (file.entries.empty())
                problems.push_back(fmt::format(
                    "{}: holds none of the datasets asked for ({}), but {}; leave the file out or "
                    "correct the names",
                    file.path, fmt::join(patterns, ", "), list_of(file.others)));
        find_gaps(files, problems);
    }

    std::map<std::string, Dataset, bool (*)(const std::string&, const std::string&)> datasets(natural_less);
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

    std::vector<Dataset> result;
    for (auto& [name, dataset] : datasets) result.push_back(std::move(dataset));
    return result;
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
