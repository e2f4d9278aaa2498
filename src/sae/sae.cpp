#include "sae/sae.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace strata::sae {

void initialise(device::Device& device, device::Tensors& t, std::uint64_t seed,
                std::span<const float> b_dec) {
    const auto n = static_cast<std::size_t>(t.n);
    std::vector<float> row(n);
    for (std::int64_t j = 0; j < t.width; ++j) {
        Random random(seed, Purpose::initial_weights, static_cast<std::uint64_t>(j));
        double square = 0;
        for (float& value : row) {
            value = random.normal();
            square += static_cast<double>(value) * value;
        }
        for (float& value : row) value = static_cast<float>(value / std::sqrt(square));
        const std::size_t at = static_cast<std::size_t>(j) * n;
        device.upload(std::as_bytes(std::span(row)), t.w_dec.data() + at);
        device.upload(std::as_bytes(std::span(row)), t.w_enc.data() + at);
    }
    device.upload(std::as_bytes(b_dec), t.b_dec.data());
}

void apply_inference(device::Device& device, const device::Tensors& t, Inference rule, std::int64_t k,
                     std::span<const float> thresholds) {
    if (rule == Inference::row_top) {
        device.screen_row_top(t, k, {});
        device.keep(device::CodeSet::main, 0, 0);
    } else {
        device.screen_above(t, std::max(0.0F, *std::ranges::min_element(thresholds)), 0);
        device.keep_above(device::CodeSet::main, thresholds);
    }
}

std::vector<float> host_copy(device::Device& device, const device::Memory<float>& values) {
    std::vector<float> copy(values.size);
    device.download(values.data(), std::as_writable_bytes(std::span(copy)));
    return copy;
}

}  // namespace strata::sae
