// Keys by their names.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "config/keys.h"
#include "config/nearest.h"

namespace strata::config {
namespace {

std::vector<std::string_view> names_in(std::string_view section) {
    std::vector<std::string_view> names;
    for (const Key& key : keys())
        if (key.section == section) names.push_back(key.name);
    return names;
}

}  // namespace

bool Key::concerns(const SaeConfig& sae) const {
    return kinds.empty() || std::find(kinds.begin(), kinds.end(), sae.kind) != kinds.end();
}

const Key* find_key(std::string_view section, std::string_view name) {
    for (const Key& key : keys())
        if (key.section == section && key.name == name) return &key;
    return nullptr;
}

std::vector<const Key*> differing_keys(const std::vector<const SaeConfig*>& saes) {
    std::vector<const Key*> differing;
    for (const std::string_view section : {"sae.atm", "sae"})
        for (const Key& key : keys()) {
            if (key.section != section || is_section(key.full())) continue;
            const std::string first = key.get({}, *saes.front());
            if (std::any_of(saes.begin(), saes.end(),
                            [&](const SaeConfig* sae) { return key.get({}, *sae) != first; }))
                differing.push_back(&key);
        }
    return differing;
}

std::span<const std::string_view> sections() {
    static constexpr std::array<std::string_view, 7> names = {"run", "data",    "train",   "optimizer",
                                                              "sae", "sae.atm", "parallel"};
    return names;
}

bool is_section(std::string_view name) {
    return std::find(sections().begin(), sections().end(), name) != sections().end();
}

std::string hint(std::string_view section, std::string_view name) {
    const std::string path = fmt::format("{}.{}", section, name);
    for (const Key& key : keys())
        if (key.name == name || key.full() == name || key.full() == path)
            return fmt::format("it belongs to section {}: {}", key.section, key.full());
    std::vector<std::string_view> here = names_in(section);
    if (section.empty()) {
        std::ranges::remove_copy_if(sections(), std::back_inserter(here), is_inside);
        here.push_back("suite");
    }
    if (const std::string_view near = nearest(name, here); !near.empty())
        return fmt::format("did you mean '{}'?", near);
    for (const std::string_view other : sections())
        if (const std::string_view near = nearest(name, names_in(other)); !near.empty())
            return fmt::format("did you mean {}.{}?", other, near);
    return fmt::format("expected one of {}", fmt::join(here, ", "));
}

}  // namespace strata::config
