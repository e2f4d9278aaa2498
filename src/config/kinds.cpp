#include "config/kinds.h"

#include <array>

namespace strata::config {

std::span<const std::string_view> known_kinds() {
    static constexpr std::array<std::string_view, 6> names = {"relu",     "topk",  "batch_topk",
                                                              "jumprelu", "gated", "matryoshka"};
    return names;
}

}  // namespace strata::config
