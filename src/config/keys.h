#pragma once
// The table of keys: one description each, from which reading, checking, suggestions, to_yaml, the
// fingerprint and the test of docs/configuration.md all work.

#include <yaml-cpp/yaml.h>

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace strata::config {

struct Key {
    std::string section;  // `sae.atm` for what stands in the map `atm` of section sae
    std::string name;
    std::string expected;   // as messages and the documentation call it
    bool required = false;  // has no default
    bool decides = true;    // the result; part of the fingerprint
    bool list = false;      // a value is a list itself
    // Of section sae: those for which it means anything; empty: all.
    std::vector<std::string_view> kinds = {};
    // Returns what is wrong, or "" when the value is set.
    std::function<std::string(const YAML::Node&, Config&, SaeConfig&)> set = {};
    // The present value as YAML on one line.
    std::function<std::string(const Config&, const SaeConfig&)> get = {};

    std::string full() const { return section + "." + name; }
    bool concerns(const SaeConfig& sae) const;
};

// In the order of the documentation, sections together.
std::span<const Key> keys();

// nullptr if there is none.
const Key* find_key(std::string_view section, std::string_view name);

// The keys of an SAE that have not the same value in all of `saes`, those in a map first, instead of the map.
std::vector<const Key*> differing_keys(const std::vector<const SaeConfig*>& saes);

// In order, without `suite`, which holds no keys of its own. `sae.atm` is a section inside of one, and at the
// same time a key of that one, whose value (null, or the map of its keys) says it all.
std::span<const std::string_view> sections();
bool is_section(std::string_view name);
inline bool is_inside(std::string_view section) {
    return section.find('.') != std::string_view::npos;
}

// How a complaint about an unknown key goes on: where the key belongs, which one is nearest, or else which
// there are. `section` is "" at the top of the file.
std::string hint(std::string_view section, std::string_view name);

}  // namespace strata::config
