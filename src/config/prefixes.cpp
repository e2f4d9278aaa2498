#include <algorithm>
#include <cmath>

#include "config/config.h"

namespace strata {

std::vector<std::int64_t> prefix_widths(const SaeConfig& sae) {
    std::vector<double> ends = sae.prefixes;
    if (ends.empty() && sae.kind == "matryoshka") ends = {1.0 / 32, 3.0 / 32, 7.0 / 32, 15.0 / 32, 1.0};
    const auto width = static_cast<double>(sae.width);
    const double unit = !ends.empty() && ends.back() <= 1 ? width : 1;
    std::vector<std::int64_t> widths;
    for (const double end : ends)
        widths.push_back(static_cast<std::int64_t>(std::clamp(std::round(end * unit), 1.0, width)));
    widths.push_back(sae.width);
    widths.erase(std::unique(widths.begin(), widths.end()), widths.end());
    return widths;
}

}  // namespace strata
