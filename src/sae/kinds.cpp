#include <array>
#include <cmath>

#include "base/error.h"
#include "sae/kind.h"

namespace strata::sae {

std::span<const Kind> kinds() {
    static const std::array all = {relu, topk, batch_topk, jumprelu, gated, matryoshka};
    return all;
}

const Kind& kind_of(std::string_view name) {
    for (const Kind& kind : kinds())
        if (kind.name == name) return kind;
    fail("no SAE kind is named '{}'", name);
}

void lower_thresholds_of_u(const Moment&, std::span<const std::uint32_t> latents, double factor,
                           std::span<float>, std::span<float> b_enc) {
    for (const std::uint32_t j : latents)
        if (b_enc[j] < 0) b_enc[j] = static_cast<float>(b_enc[j] * factor);
}

std::int64_t codes_of_batch(double k, std::int64_t rows) {
    return std::llround(k * static_cast<double>(rows));
}

}  // namespace strata::sae
