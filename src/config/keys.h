#pragma once
// The table of keys: one description each, from which reading, checking, suggestions, to_yaml, the
// fingerprint and the test of docs/configuration.md all work.

#include <yaml-cpp/yaml.h>

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "config/config.h"

namespace strata::config {

struct Key {
    std::string section;
    std::string name;
    std::string expected;   // as messages and the documentation call it
    bool required = false;  // has no default
    bool decides = true;    // the result; part of the fingerprint
    // Returns what is wrong, or "" when the value is set.
    std::function<std::string(const YAML::Node&, Config&, SaeConfig&)> set = {};
    // The present value as YAML on one line.
    std::function<std::string(const Config&, const SaeConfig&)> get = {};

    std::string full() const { return section + "." + name; }
};

// In the order of the documentation, sections together.
std::span<const Key> keys();

// nullptr if there is none.
const Key* find_key(std::string_view section, std::string_view name);

// In order, without `suite`, which holds no keys of its own.
std::span<const std::string_view> sections();

// How a complaint about an unknown key goes on: where the key belongs, which one is nearest, or else which
// there are. `section` is "" at the top of the file.
std::string hint(std::string_view section, std::string_view name);

}  // namespace strata::config
