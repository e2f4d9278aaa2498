#include "config/kinds.h"

#include <array>

namespace strata::config {

std::span<const std::string_view> known_kinds() {
    static constexpr std::array<std::string_view, 2> names = {"topk", "batch_topk"};
    return names;
}

}  // namespace strata::config
