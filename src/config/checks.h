#pragma once
// Conditions between keys; each key alone is checked by the table.

#include <set>
#include <string>
#include <vector>

#include "config/suite.h"

namespace strata::config {

// `origins` by full key. A condition is skipped if one of its keys is in `failed` and so has not the value
// meant.
void check_run(const Config& config, const Origins& origins, const std::set<std::string>& failed,
               Errors& errors);

// Each SAE of `config` by itself, and that no two have the same name.
void check_saes(const std::vector<WrittenSae>& saes, const Config& config, Errors& errors);

}  // namespace strata::config
