#pragma once
// What a file holds, dataset by dataset, whether or not it can be streamed.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/hdf5.h"

namespace strata::data {

struct Entry {
    std::string name;                 // without a leading '/'
    std::vector<std::int64_t> shape;  // any number of dimensions
    std::string type;                 // for people: "float16", "32-bit integer"; empty: it cannot be opened
    bool floating = false;            // of any size
    FilePart part;                    // meaningful where `problem` is empty; `first` is 0
    std::string problem;              // why it cannot be streamed and what to do; empty: it can
};

// nullopt: the file holds no dataset of that name.
std::optional<Entry> describe(const Handle& file, const std::string& path, const std::string& name);

// Names of all datasets in order (numbers by value), through links to other files as well.
std::vector<std::string> dataset_names(const Handle& file);

// What globs of names take: two-dimensional, of floats, and not `token_ids`, `context_ids` or
// `true_features`. Whether it can be streamed is another question (Entry::problem).
bool is_activations(const Entry& entry);

// The files that patterns name (globs, braces, ~), each once, in byte order of their paths. What matches
// nothing adds a sentence to `problems`.
std::vector<std::string> expand_files(const std::vector<std::string>& patterns,
                                      std::vector<std::string>& problems);

bool is_glob(const std::string& pattern);

// `*` stops at a '/' unless the pattern contains `**`.
bool matches_name(const std::string& pattern, const std::string& name);

// Without slashes at its ends or in a row.
std::string tidy_name(const std::string& name);

// As people sort: digits by their value, so layer 9 before layer 10.
bool natural_less(const std::string& a, const std::string& b);

}  // namespace strata::data
