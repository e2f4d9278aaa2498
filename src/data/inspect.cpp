#include "data/inspect.h"

#include <fnmatch.h>
#include <glob.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <map>

#include "base/error.h"

namespace strata::data {
namespace {

// Chunks that were never written read as zeros, without an error. The library's own H5Dget_space_status
// compares bytes, which filters and partial chunks change, so chunks are counted here.
std::string unwritten(hid_t dataset, const std::vector<std::int64_t>& shape) {
    const Handle made(H5Dget_create_plist(dataset));
    std::array<hsize_t, 2> chunk{};
    hsize_t expected = 1, found = 1;
    if (H5Pget_layout(made.get()) == H5D_CHUNKED && H5Pget_chunk(made.get(), 2, chunk.data()) == 2) {
        for (std::size_t i = 0; i < 2; ++i)
            expected *= (static_cast<hsize_t>(shape[i]) + chunk[i] - 1) / chunk[i];
        const Handle space(H5Dget_space(dataset));
        if (H5Dget_num_chunks(dataset, space.get(), &found) < 0) found = expected;
        if (found < expected) return fmt::format("{} of {} chunks", found, expected);
    } else if (H5Pget_layout(made.get()) == H5D_CONTIGUOUS) {
        H5D_space_status_t status = H5D_SPACE_STATUS_ERROR;
        if (H5Dget_space_status(dataset, &status) >= 0 && status == H5D_SPACE_STATUS_NOT_ALLOCATED)
            return "no bytes";
    }
    return {};
}

void describe_layout(hid_t dataset, FilePart& part) {
    const Handle made(H5Dget_create_plist(dataset));
    part.virtual_rows = H5Pget_layout(made.get()) == H5D_VIRTUAL;
    if (H5Pget_layout(made.get()) != H5D_CHUNKED) return;
    std::array<hsize_t, 2> chunk{};
    if (H5Pget_chunk(made.get(), 2, chunk.data()) == 2) part.chunk_rows = static_cast<std::int64_t>(chunk[0]);
    for (int i = 0; i < H5Pget_nfilters(made.get()); ++i) {
        unsigned flags = 0;
        std::size_t values = 0;
        std::array<char, 64> text{};
        const H5Z_filter_t filter = H5Pget_filter2(made.get(), static_cast<unsigned>(i), &flags, &values,
                                                   nullptr, text.size(), text.data(), nullptr);
        if (filter == H5Z_FILTER_FLETCHER32) part.checksummed = true;
        std::string name(text.data());
        if (name.empty()) name = fmt::format("filter {}", static_cast<int>(filter));
        part.filters += (part.filters.empty() ? "" : " ") + name;
    }
}

std::string problem_of(hid_t dataset, hid_t datatype, const Entry& entry) {
    if (entry.shape.size() != 2)
        return fmt::format("has {} dimension{}; expected two, [rows, n]", entry.shape.size(),
                           entry.shape.size() == 1 ? "" : "s");
    if (!type_of(datatype))
        return fmt::format(
            "has elements of type {}; expected little-endian float16, bfloat16 or float32: write it again "
            "with one of these, e.g. h5py's astype('float16')",
            describe_type(datatype));
    if (entry.shape[0] == 0) return "has no rows; was its writer interrupted?";
    if (entry.shape[1] == 0) return "has rows of no elements";
    if (const std::string written = unwritten(dataset, entry.shape); !written.empty())
        return fmt::format(
            "was not written to its end: {} hold data, the rest would read as zeros; write it again",
            written);
    return {};
}

// What cannot be opened is listed as well: describe() then says why, instead of its rows missing silently.
herr_t add_name(hid_t group, const char* name, const H5L_info_t*, void* names) {
    const Handle object(H5Oopen(group, name, H5P_DEFAULT));
    if (!object) H5Eclear2(H5E_DEFAULT);
    if (!object || H5Iget_type(object.get()) == H5I_DATASET)
        static_cast<std::vector<std::string>*>(names)->emplace_back(name);
    return 0;
}

}  // namespace

std::optional<Entry> describe(const Handle& file, const std::string& path, const std::string& name) {
    const Hdf5Lock lock;
    const Handle dataset = open_dataset(file.get(), name);
    Entry entry;
    entry.name = name;
    entry.part.path = path;
    if (!dataset) {
        const std::string reason = hdf5_reason();
        const bool absent =
            reason.find("doesn't exist") != std::string::npos || reason == "component not found";
        if (absent && H5Lexists(file.get(), name.c_str(), H5P_DEFAULT) <= 0) return std::nullopt;
        entry.problem = reason == "not a dataset"
                            ? "is a group; name the datasets in it, as in " + name + "/*"
                        : absent ? "is a link that leads nowhere"
                                 : "cannot be opened: " + reason;
        return entry;
    }
    const Handle datatype(H5Dget_type(dataset.get()));
    const Handle space(H5Dget_space(dataset.get()));
    std::array<hsize_t, H5S_MAX_RANK> dimensions{};
    const int rank = H5Sget_simple_extent_dims(space.get(), dimensions.data(), nullptr);
    for (int i = 0; i < rank; ++i)
        entry.shape.push_back(static_cast<std::int64_t>(dimensions[static_cast<std::size_t>(i)]));
    const auto type = type_of(datatype.get());
    entry.floating = H5Tget_class(datatype.get()) == H5T_FLOAT;
    entry.type = type ? name_of(*type) : describe_type(datatype.get());

    FilePart& part = entry.part;
    part.rows = entry.shape.empty() ? 0 : entry.shape[0];
    part.type = type.value_or(Type::float32);
    describe_layout(dataset.get(), part);
    part.model = text_attribute(dataset.get(), "model").value_or("");
    part.site = text_attribute(dataset.get(), "site").value_or("");
    part.layer = std::llround(number_attribute(dataset.get(), "layer").value_or(-1));
    part.mean_sq_norm = number_attribute(dataset.get(), "mean_sq_norm").value_or(-1);
    entry.problem = problem_of(dataset.get(), datatype.get(), entry);
    return entry;
}

std::vector<std::string> dataset_names(const Handle& file) {
    const Hdf5Lock lock;
    std::vector<std::string> names;
    H5Lvisit(file.get(), H5_INDEX_NAME, H5_ITER_INC, add_name, &names);
    std::ranges::sort(names, natural_less);
    return names;
}

bool is_activations(const Entry& entry) {
    if (entry.type.empty()) return true;  // cannot be opened: to be refused, not passed over
    const std::string last = entry.name.substr(entry.name.rfind('/') + 1);
    const bool companion = last == "token_ids" || last == "context_ids" || last == "true_features";
    return entry.shape.size() == 2 && entry.floating && !companion;
}

std::vector<std::string> expand_files(const std::vector<std::string>& patterns,
                                      std::vector<std::string>& problems) {
    std::map<std::string, std::string>
        found;  // by the file itself, so that two ways to write a path count once
    for (const std::string& pattern : patterns) {
        std::vector<std::string> paths;
        std::error_code ignored;
        if (std::filesystem::exists(pattern, ignored)) {
            paths.push_back(pattern);
        } else {
            glob_t result{};
            if (::glob(pattern.c_str(), GLOB_BRACE | GLOB_TILDE, nullptr, &result) == 0)
                paths.assign(result.gl_pathv, result.gl_pathv + result.gl_pathc);
            ::globfree(&result);
        }
        if (paths.empty())
            problems.push_back(
                fmt::format("{}: no such file{}", pattern, is_glob(pattern) ? " matches" : ""));
        for (const std::string& path : paths) {
            const auto same = std::filesystem::weakly_canonical(path, ignored);
            found.try_emplace(ignored ? path : same.string(), path);
        }
    }
    std::vector<std::string> paths;
    for (const auto& [same, path] : found) paths.push_back(path);
    std::ranges::sort(paths);
    return paths;
}

bool is_glob(const std::string& pattern) {
    return pattern.find_first_of("*?[") != std::string::npos;
}

bool matches_name(const std::string& pattern, const std::string& name) {
    const int flags = pattern.find("**") == std::string::npos ? FNM_PATHNAME : 0;
    return fnmatch(pattern.c_str(), name.c_str(), flags) == 0;
}

std::string tidy_name(const std::string& name) {
    std::string result;
    for (const char c : name)
        if (c != '/' || (!result.empty() && result.back() != '/')) result += c;
    if (!result.empty() && result.back() == '/') result.pop_back();
    return result;
}

bool natural_less(const std::string& a, const std::string& b) {
    const auto is_digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
    std::size_t i = 0, j = 0;
    while (i < a.size() && j < b.size()) {
        if (!is_digit(a[i]) || !is_digit(b[j])) {
            if (a[i] != b[j]) return a[i] < b[j];
            ++i, ++j;
            continue;
        }
        while (i < a.size() && a[i] == '0') ++i;
        while (j < b.size() && b[j] == '0') ++j;
        std::size_t end_a = i, end_b = j;
        while (end_a < a.size() && is_digit(a[end_a])) ++end_a;
        while (end_b < b.size() && is_digit(b[end_b])) ++end_b;
        if (end_a - i != end_b - j) return end_a - i < end_b - j;
        const int order = a.compare(i, end_a - i, b, j, end_b - j);
        if (order != 0) return order < 0;
        i = end_a, j = end_b;
    }
    if (a.size() - i != b.size() - j) return a.size() - i < b.size() - j;
    return a < b;
}

}  // namespace strata::data
