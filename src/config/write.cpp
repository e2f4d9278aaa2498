#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "config/config.h"
#include "config/keys.h"
#include "config/values.h"

namespace strata {
namespace {

// Whether `key` concerns all SAEs and has the same value in them. It then stands in section sae instead of in
// the items.
bool shared(const config::Key& key, const Config& config) {
    return std::all_of(config.saes.begin(), config.saes.end(), [&](const SaeConfig& sae) {
        return key.concerns(sae) && key.get(config, sae) == key.get(config, config.saes.front());
    });
}

}  // namespace

std::string to_yaml(const Config& config) {
    STRATA_ASSERT(!config.saes.empty());
    std::string text = "# strata " STRATA_VERSION "\n";
    for (const std::string_view section : config::sections()) {
        if (config::is_inside(section)) continue;
        text += fmt::format("{}:\n", section);
        std::vector<std::string> items(config.saes.size());
        for (const config::Key& key : config::keys()) {
            if (key.section != section) continue;
            if (section != "sae" || shared(key, config)) {
                text += fmt::format("  {}: {}\n", key.name, key.get(config, config.saes.front()));
                continue;
            }
            if (config.saes.size() == 1) continue;
            for (std::size_t i = 0; i < items.size(); ++i)
                if (key.concerns(config.saes[i]))
                    items[i] += fmt::format("{}{}: {}", items[i].empty() ? "" : ", ", key.name,
                                            key.get(config, config.saes[i]));
        }
        if (section != "sae" || config.saes.size() == 1) continue;
        text += "suite:\n";
        for (const std::string& item : items) text += fmt::format("  - {{{}}}\n", item);
    }
    return text;
}

std::string fingerprint(const Config& config) {
    nlohmann::ordered_json all;
    for (const config::Key& key : config::keys()) {
        if (!key.decides || config::is_inside(key.section)) continue;
        if (key.section != "sae") {
            all[key.full()] = key.get(config, SaeConfig());
            continue;
        }
        for (const SaeConfig& sae : config.saes) all[key.full()].push_back(key.get(config, sae));
    }
    // File names may be bytes that are no UTF-8.
    return all.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

std::string differences(std::string_view then, std::string_view now) {
    using Json = nlohmann::ordered_json;
    const Json before = Json::parse(then, nullptr, false), after = Json::parse(now, nullptr, false);
    std::string text;
    const auto line = [&](const std::string& key) {
        const auto value = [&](const Json& of) { return of.contains(key) ? of.at(key).dump() : "not there"; };
        text += fmt::format("\n  {}: {} then, {} now", key, value(before), value(after));
    };
    for (const auto& [key, value] : after.items())
        if (!before.contains(key) || before.at(key) != value) line(key);
    if (before.is_object())
        for (const auto& [key, value] : before.items())
            if (!after.contains(key)) line(key);
    return text;
}

}  // namespace strata
