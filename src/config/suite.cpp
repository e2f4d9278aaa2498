#include "config/suite.h"

#include <fmt/format.h>

#include "config/keys.h"

namespace strata::config {
namespace {

// More SAEs than any run can hold; stops a slip of the pen from filling the memory.
constexpr std::size_t most_saes = 10000;

// A key of an item, with the values that it takes in turn.
struct Choice {
    const Key* key;
    Origin origin;
    std::vector<YAML::Node> values;
};

// Sets one value, whose validity does not depend on those of other keys.
std::string set(const Choice& choice, const YAML::Node& value, SaeConfig& sae) {
    Config none;
    return choice.key->set(value, none, sae);
}

// The choices of an item; false if any of them is wrong.
bool read_item(const YAML::Node& item, const Origin& origin, std::vector<Choice>& choices, Errors& errors) {
    bool good = true;
    const auto complain = [&](const Origin& at, const std::string& what) {
        errors.add(at, what);
        good = false;
    };
    each_pair(item, origin, errors, [&](const std::string& name, const Value& value) {
        Choice choice{find_key("sae", name), value.origin, {}};
        if (choice.key == nullptr) {
            complain(value.origin, fmt::format("unknown key; {}", hint("sae", name)));
            return;
        }
        if (value.node.IsSequence())
            for (const YAML::Node& node : value.node) choice.values.push_back(node);
        else
            choice.values.push_back(value.node);
        if (choice.values.empty())
            complain(value.origin,
                     fmt::format("the list is empty; expected {}, or several", choice.key->expected));
        for (const YAML::Node& node : choice.values) {
            SaeConfig scratch;
            if (const std::string wrong = set(choice, node, scratch); !wrong.empty())
                complain({line_of(node, value.origin), value.origin.key}, wrong);
        }
        choices.push_back(std::move(choice));
    });
    return good;
}

void expand(const std::vector<Choice>& choices, std::size_t depth, const WrittenSae& sae,
            std::vector<WrittenSae>& out) {
    if (depth == choices.size()) {
        out.push_back(sae);
        return;
    }
    const Choice& choice = choices[depth];
    for (const YAML::Node& value : choice.values) {
        WrittenSae next = sae;
        set(choice, value, next.config);
        next.origins[choice.key->name] = choice.origin;
        expand(choices, depth + 1, next, out);
    }
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
        std::vector<Choice> choices;
        if (!read_item(item, origin, choices, errors)) continue;
        std::size_t count = 1;
        for (const Choice& choice : choices)
            if (count <= most_saes) count *= choice.values.size();
        if (count > most_saes || saes.size() + count > most_saes) {
            errors.add(origin, fmt::format("more than {} SAEs; expected fewer combinations", most_saes));
            return saes;
        }
        expand(choices, 0, base, saes);
    }
    return saes;
}

}  // namespace strata::config
