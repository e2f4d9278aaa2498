#include "sae/sae.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace strata::sae {

device::Shape shape_of(const SaeConfig& config, std::int64_t n, bool transcoder) {
    device::Shape shape;
    shape.n = n;
    shape.width = config.width;
    shape.per_latent = kind_of(config.kind).per_latent;
    shape.skip = config.skip;
    shape.transcoder = transcoder;
    shape.unit_rows = config.decoder == "unit";
    shape.prefixes = prefix_widths(config);
    return shape;
}

namespace {

void random_direction(Random random, float norm, std::span<float> row) {
    double square = 0;
    for (float& value : row) {
        value = random.normal();
        square += static_cast<double>(value) * value;
    }
    for (float& value : row) value = static_cast<float>(norm * value / std::sqrt(square));
}

}  // namespace

std::int64_t auxiliary_codes(const SaeConfig& config, std::int64_t n) {
    if (kind_of(config.kind).elementwise()) return 0;
    return config.aux_k.value_or(std::min({std::int64_t{512}, n / 2, config.width}));
}

void initialise(device::Device& device, device::Tensors& t, std::uint64_t seed, std::span<const float> b_dec,
                std::int64_t first, std::int64_t last) {
    constexpr std::int64_t block = 256;  // latents; each upload takes a device some microseconds
    const float norm = t.unit_rows ? 1.0F : 0.1F;
    std::vector<float> rows(static_cast<std::size_t>(block * t.n));
    for (std::int64_t begin = first; begin < last; begin += block) {
        const std::int64_t count = std::min(block, last - begin);
        const std::span<float> filled = std::span(rows).first(static_cast<std::size_t>(count * t.n));
        const auto fill = [&](Purpose purpose) {
            for (std::int64_t i = 0; i < count; ++i)
                random_direction(
                    {seed, purpose, static_cast<std::uint64_t>(begin + i)}, norm,
                    filled.subspan(static_cast<std::size_t>(i * t.n), static_cast<std::size_t>(t.n)));
        };
        fill(Purpose::initial_weights);
        device.upload(std::as_bytes(filled), t.w_dec.data() + begin * t.n);
        if (t.transcoder) fill(Purpose::encoder_weights);
        device.upload(std::as_bytes(filled), t.w_enc.data() + begin * t.n);
    }
    device.upload(std::as_bytes(b_dec), t.b_dec.data());
}

void apply_inference(device::Device& device, const device::Tensors& t, bool row_top, std::int64_t k,
                     std::span<const float> thresholds) {
    if (row_top) {
        device.screen_row_top(t, k, {});
        device.keep(device::CodeSet::main, 0, 0, false);
        return;
    }
    device.screen_above(t, thresholds, 0);
    device::Gate gate;
    gate.threshold = thresholds;
    device.keep_gate(gate, t, false);
}

std::vector<float> host_copy(device::Device& device, const device::Memory<float>& values) {
    std::vector<float> copy(values.size);
    device.download(values.data(), std::as_writable_bytes(std::span(copy)));
    return copy;
}

}  // namespace strata::sae
