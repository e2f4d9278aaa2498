#pragma once
// The names that `sae.kind` may have. They stand here and not only in the SAE room because a configuration is
// checked without any device or kind being linked in.

#include <span>
#include <string_view>

namespace strata::config {

std::span<const std::string_view> known_kinds();

}  // namespace strata::config
