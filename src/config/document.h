#pragma once
// What a file and the --set options say, key by key, before any value is interpreted.

#include <yaml-cpp/yaml.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/errors.h"

namespace strata::config {

struct Value {
    YAML::Node node;
    Origin origin;
};

struct Document {
    std::map<std::string, Value> values;       // by `section.key`; known keys only
    std::map<std::string, int> section_lines;  // where a missing key would have stood
    std::optional<Value> suite;
};

// An option replaces what the file says of its key, which is then not looked at, so that an option can mend a
// file. Unknown keys, duplicate ones and sections that are none go to `errors`; a file that cannot be read,
// or is not YAML, is a UsageError at once.
Document read_document(const std::string& file, const std::vector<std::string>& options, Errors& errors);

// Calls `use` for each pair of `map`. Keys that are not names or stand twice go to `errors`. `origin` is the
// map's own.
void each_pair(const YAML::Node& map, const Origin& origin, Errors& errors,
               const std::function<void(const std::string& name, const Value& value)>& use);

// Where `node` stands, if `origin` is that of a collection around it.
int line_of(const YAML::Node& node, const Origin& origin);

}  // namespace strata::config
