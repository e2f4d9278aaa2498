#include "device/device.h"

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

float OptimizerStep::rate_here() const {
    return lr * (1.0F - beta1 * (1.0F - average));
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
