#include "device/device.h"

namespace strata::device {

Tensors make_tensors(Device& device, std::int64_t n, std::int64_t width) {
    const auto vectors = static_cast<std::size_t>(width);
    const auto length = static_cast<std::size_t>(n);
    return {.n = n,
            .width = width,
            .w_enc = make_memory<float>(device, vectors * length),
            .w_dec = make_memory<float>(device, vectors * length),
            .b_enc = make_memory<float>(device, vectors),
            .b_dec = make_memory<float>(device, length)};
}

}  // namespace strata::device
