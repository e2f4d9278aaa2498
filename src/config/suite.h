#pragma once
// The SAEs of a run: `sae` alone, or every combination of the values listed in the items of `suite`.

#include <map>
#include <string>
#include <vector>

#include "config/config.h"
#include "config/document.h"

namespace strata::config {

// Where each value was written, by the name in section sae (of an SAE) or by the full key (of a run).
using Origins = std::map<std::string, Origin>;

struct WrittenSae {
    SaeConfig config;
    Origins origins;
    Origin origin = {1, "sae"};  // of the item of the suite
};

// Items in order; within one, keys as written, the last varies fastest. An item with an error gives no SAE.
std::vector<WrittenSae> expand_suite(const Value& suite, const WrittenSae& base, Errors& errors);

}  // namespace strata::config
