#include "config/suite.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/keys.h"

namespace strata::config {
namespace {

// More SAEs than any run can hold; stops a slip of the pen from filling the memory.
constexpr std::size_t most_saes = 10000;

struct Setting {
    const Key* key;
    YAML::Node value;  // not to be assigned, which in yaml-cpp changes the node for all who share it
    Origin origin;
};
using Settings = std::vector<Setting>;  // later ones stand on earlier ones

// Whether `node` lists values to be taken in turn, and is not one value.
bool lists_values(const Key& key, const YAML::Node& node) {
    if (!node.IsSequence()) return false;
    return !key.list || std::any_of(node.begin(), node.end(), [](const YAML::Node& item) {
        return item.IsSequence() || item.IsNull();
    });
}

bool combine(const std::string& section, const Value& map, std::vector<Settings>& out, Errors& errors);

// What a key of an item may be set to, in turn; a map among its values gives all of that map's combinations.
// False if anything is wrong with them.
bool read_values(const Key& key, const Value& value, std::vector<Settings>& out, Errors& errors) {
    std::vector<YAML::Node> nodes;
    if (lists_values(key, value.node))
        for (const YAML::Node& node : value.node) nodes.push_back(node);
    else
        nodes.push_back(value.node);
    if (nodes.empty())
        errors.add(value.origin, fmt::format("the list is empty; expected {}, or several", key.expected));
    bool good = !nodes.empty();
    for (const YAML::Node& node : nodes) {
        const Origin at{line_of(node, value.origin), value.origin.key};
        // Whether a value is valid does not depend on those of other keys.
        Config none;
        SaeConfig scratch;
        if (const std::string wrong = key.set(node, none, scratch); !wrong.empty()) {
            errors.add(at, wrong);
            good = false;
            continue;
        }
        std::vector<Settings> inside = {{}};
        if (node.IsMap() && !combine(key.full(), {node, at}, inside, errors)) good = false;
        for (const Settings& rest : inside) {
            Settings settings = {{&key, node, value.origin}};
            settings.insert(settings.end(), rest.begin(), rest.end());
            out.push_back(std::move(settings));
        }
    }
    return good;
}

// Every combination of the values of a map's keys, keys as written, the last varying fastest; `out` holds one
// empty combination before. False if anything is wrong.
bool combine(const std::string& section, const Value& map, std::vector<Settings>& out, Errors& errors) {
    bool good = true;
    each_pair(map.node, map.origin, errors, [&](const std::string& name, const Value& value) {
        const Key* key = find_key(section, name);
        if (key == nullptr) {
            errors.add(value.origin, fmt::format("unknown key; {}", hint(section, name)));
            good = false;
            return;
        }
        std::vector<Settings> values;
        if (!read_values(*key, value, values, errors)) good = false;
        if (out.size() * values.size() > most_saes) {
            errors.add(map.origin, fmt::format("more than {} SAEs; expected fewer combinations", most_saes));
            good = false;
        }
        if (!good) return;
        std::vector<Settings> longer;
        for (const Settings& before : out)
            for (const Settings& value_settings : values) {
                longer.push_back(before);
                longer.back().insert(longer.back().end(), value_settings.begin(), value_settings.end());
            }
        out = std::move(longer);
    });
    return good;
}

WrittenSae apply(const Settings& settings, WrittenSae sae) {
    Config none;
    for (const Setting& setting : settings) {
        setting.key->set(setting.value, none, sae.config);
        sae.origins[setting.key->full().substr(std::string_view("sae.").size())] = setting.origin;
    }
    return sae;
}

}  // namespace

std::vector<WrittenSae> expand_suite(const Value& suite, const WrittenSae& base, Errors& errors) {
    std::vector<WrittenSae> saes;
    if (!suite.node.IsSequence() || suite.node.size() == 0) {
        errors.add(suite.origin,
                   fmt::format("{}; expected a list of maps as `- {{kind: topk, k: [32, 64]}}`, or no suite",
                               suite.node.IsSequence() ? "the list is empty" : "is not a list"));
        return saes;
    }
    for (const YAML::Node& item : suite.node) {
        const Origin origin{line_of(item, suite.origin), suite.origin.key};
        if (!item.IsMap() || item.size() == 0) {
            errors.add(origin,
                       "an item is not a map; expected keys of section sae as {kind: topk, k: [32, 64]}");
            continue;
        }
        std::vector<Settings> combinations = {{}};
        if (!combine("sae", {item, origin}, combinations, errors)) continue;
        if (saes.size() + combinations.size() > most_saes) {
            errors.add(origin, fmt::format("more than {} SAEs; expected fewer combinations", most_saes));
            return saes;
        }
        for (const Settings& settings : combinations) {
            saes.push_back(apply(settings, base));
            saes.back().origin = origin;
        }
    }
    return saes;
}

}  // namespace strata::config
