#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "config/checks.h"
#include "config/config.h"
#include "config/document.h"
#include "config/keys.h"
#include "config/suite.h"

namespace strata {
namespace {

using namespace config;

// Sets every key of `document` in `config`, those of section sae in `sae`. Returns the keys whose value is
// wrong or missing.
std::set<std::string> set_all(const Document& document, Config& config, SaeConfig& sae, Errors& errors) {
    std::set<std::string> failed;
    for (const Key& key : keys()) {
        const auto found = document.values.find(key.full());
        if (found == document.values.end()) {
            if (!key.required) continue;
            const auto section = document.section_lines.find(key.section);
            errors.add({section == document.section_lines.end() ? 1 : section->second, key.full()},
                       fmt::format("is missing; expected {}", key.expected));
            failed.insert(key.full());
            continue;
        }
        const auto& [node, origin] = found->second;
        std::string wrong = key.set(node, config, sae);
        if (wrong.empty()) continue;
        if (key.section.starts_with("sae") && node.IsSequence() && !key.list)
            wrong += "; lists of values belong in the items of suite";
        errors.add(origin, wrong);
        failed.insert(key.full());
    }
    return failed;
}

}  // namespace

Config load_config(const std::string& path, const std::vector<std::string>& overrides) {
    Errors errors(path);
    const Document document = read_document(path, overrides, errors);

    Config config;
    WrittenSae base;
    Origins origins;
    for (const auto& [name, value] : document.values) {
        origins[name] = value.origin;
        if (name.starts_with("sae.")) base.origins[name.substr(4)] = value.origin;
    }
    const std::set<std::string> failed = set_all(document, config, base.config, errors);
    check_run(config, origins, failed, errors);

    std::vector<WrittenSae> saes = {base};
    const bool has_suite = document.suite && !document.suite->node.IsNull();
    if (has_suite) saes = expand_suite(*document.suite, base, errors);
    const bool complete = std::none_of(failed.begin(), failed.end(), [](const std::string& key) {
        return key.starts_with("sae.") || key == "train.batch_size";
    });
    if (complete) check_saes(saes, config, errors);
    errors.raise();

    for (const WrittenSae& sae : saes) config.saes.push_back(sae.config);
    return config;
}

}  // namespace strata
