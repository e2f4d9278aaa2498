// The optimiser step.

#include <omp.h>

#include <cmath>

#include "device/cpu/cpu_device.h"

namespace strata::device {

void CpuDevice::update(Tensors& sae, const Tensors& gradient, Tensors& first_moment, Tensors& second_moment,
                       const AdamStep& step, std::int64_t first, std::int64_t last) {
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t j = first; j < last; ++j) {
        const std::int64_t at = j * n_;
        kernels_.adam(sae.w_enc.data() + at, first_moment.w_enc.data() + at, second_moment.w_enc.data() + at,
                      gradient.w_enc.data() + at, n_, step);
        float* d = sae.w_dec.data() + at;
        kernels_.adam(d, first_moment.w_dec.data() + at, second_moment.w_dec.data() + at,
                      gradient.w_dec.data() + at, n_, step);
        if (!sae.unit_rows) continue;
        const float square = kernels_.dot(d, d, n_);
        if (square > 0) kernels_.multiply(1.0F / std::sqrt(square), n_, d);
    }
    const auto w = sae.small(), m = first_moment.small(), v = second_moment.small(), g = gradient.small();
    for (std::size_t i = 0; i < w.size(); ++i)
        if (!w[i].empty())
            kernels_.adam(w[i].data(), m[i].data(), v[i].data(), g[i].data(), std::ssize(w[i]), step);
}

}  // namespace strata::device
