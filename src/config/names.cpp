#include <fmt/format.h>

#include <cctype>
#include <map>

#include "config/config.h"
#include "config/keys.h"
#include "config/values.h"

namespace strata {
namespace {

bool is_letter(char c) {
    return std::isalpha(static_cast<unsigned char>(c)) != 0;
}

// `aux_k0`, `theta_log`, `prefixes0.25_1`: fit for a folder's name, and as words and numbers that can be told
// apart.
std::string key_and_value(const config::Key& key, const SaeConfig& sae) {
    std::string value;
    for (const char c : key.get({}, sae)) {
        if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' || c == '+')
            value += c;
        else if (!value.empty() && value.back() != '_')
            value += '_';
    }
    while (value.ends_with('_')) value.pop_back();
    const bool apart = !is_letter(key.name.back()) || value.empty() || is_letter(value.front());
    return fmt::format("{}{}{}", key.name, apart ? "_" : "", value);
}

}  // namespace

std::string name_of(const SaeConfig& sae) {
    const auto concerned = [&](std::string_view name) {
        return config::find_key("sae", name)->concerns(sae);
    };
    std::string sparsity;
    if (concerned("k"))
        sparsity = fmt::format("k{}", config::written(sae.k));
    else if (concerned("l1"))
        sparsity = fmt::format("l1_{}", config::written(sae.l1));
    else if (sae.l0_target)
        sparsity = fmt::format("l0t{}", config::written(*sae.l0_target));
    else
        sparsity = fmt::format("l0_{}", config::written(sae.l0));
    return fmt::format("{}.w{}.{}{}", sae.kind, sae.width, sparsity, sae.atm ? ".atm" : "");
}

std::vector<std::string> names_of(const std::vector<SaeConfig>& saes) {
    std::vector<std::string> names;
    std::map<std::string, std::vector<std::size_t>> namesakes;
    for (const SaeConfig& sae : saes) {
        names.push_back(name_of(sae));
        namesakes[names.back()].push_back(names.size() - 1);
    }
    for (const auto& [name, indices] : namesakes) {
        std::vector<const SaeConfig*> alike;
        for (const std::size_t i : indices) alike.push_back(&saes[i]);
        for (const config::Key* key : config::differing_keys(alike))
            for (const std::size_t i : indices) names[i] += fmt::format(".{}", key_and_value(*key, saes[i]));
    }
    return names;
}

}  // namespace strata
