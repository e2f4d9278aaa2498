#include "device/device.h"

#include <utility>

#include "device/element.h"

namespace strata::device {

Tensors make_tensors(Device& device, const Shape& shape) {
    return make_tensors(device, shape, 0, shape.width);
}

Tensors make_tensors(Device& device, const Shape& shape, std::int64_t first, std::int64_t last) {
    const auto vectors = static_cast<std::size_t>(shape.width);
    const auto length = static_cast<std::size_t>(shape.n);
    Tensors t;
    static_cast<Shape&>(t) = shape;
    t.first = first;
    t.w_enc = make_memory<float>(device, static_cast<std::size_t>(last - first) * length);
    t.w_dec = make_memory<float>(device, static_cast<std::size_t>(last - first) * length);
    t.b_enc = make_memory<float>(device, vectors);
    t.b_dec = make_memory<float>(device, length);
    t.latent = make_memory<float>(device, static_cast<std::size_t>(shape.per_latent) * vectors);
    t.w_skip = make_memory<float>(device, shape.skip ? length * length : 0);
    return t;
}

// By shape, not by size: the gradients of SAEs of several shapes share the memory of the largest.
std::array<std::span<float>, 4> Tensors::small() const {
    const auto vectors = static_cast<std::size_t>(width);
    const auto length = static_cast<std::size_t>(n);
    return {std::span(b_enc.data(), vectors), std::span(b_dec.data(), length),
            std::span(latent.data(), static_cast<std::size_t>(per_latent) * vectors),
            std::span(w_skip.data(), skip ? length * length : 0)};
}

Rates rates_of(const OptimizerStep& step) {
    const bool adam = step.kind == OptimizerStep::Kind::adam;
    const float scale = step.gradient_scale;
    return {step.kind,
            step.beta1,
            step.beta2,
            (1.0F - step.beta1) * scale,
            adam ? (1.0F - step.beta2) * scale * scale : 1.0F - step.beta2,
            step.lr / step.correction1,
            1.0F / std::sqrt(step.correction2),
            step.epsilon,
            scale,
            step.lr,
            step.lr * (1.0F - step.beta1 * (1.0F - step.average)),
            step.average};
}

DenseReport dense_report(const DecodeSums& rows, std::span<const double> by_latent, std::int64_t width) {
    const auto part = [&](DenseSum which) {
        const auto own =
            by_latent.subspan(static_cast<std::size_t>(which * width), static_cast<std::size_t>(width));
        return std::vector<double>(own.begin(), own.end());
    };
    const std::vector<double> none(static_cast<std::size_t>(width), 0.0);
    DenseReport report;
    report.sums = rows;
    report.frozen_error = std::exchange(report.sums.l1, 0.0);
    report.main = {part(main_count), part(main_value), part(main_gradient), part(main_both)};
    report.observed = {part(observed_count), part(observed_value), part(observed_gradient), none};
    report.window = {part(window_count), none, part(window_gradient), none};
    report.gate = {part(gate_count), part(gate_value), part(gate_gradient), none};
    for (std::size_t j = 0; j < none.size(); ++j) {
        report.sums.active += static_cast<std::uint64_t>(report.main.count[j]);
        report.sums.l1 += report.main.value[j];
    }
    return report;
}

DecodeSums& DecodeSums::operator+=(const DecodeSums& other) {
    squared_error += other.squared_error;
    prefix_error += other.prefix_error;
    l1 += other.l1;
    cosine += other.cosine;
    inner += other.inner;
    x_hat_square += other.x_hat_square;
    active += other.active;
    return *this;
}

void LatentSums::reset(std::int64_t width) {
    for (auto* sums : {&count, &value, &gradient, &value_gradient})
        sums->assign(static_cast<std::size_t>(width), 0.0);
}

}  // namespace strata::device
