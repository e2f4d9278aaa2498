// The optimiser step.

#include <omp.h>

#include <cmath>

#include "device/cpu/cpu_device.h"

namespace strata::device {

void CpuDevice::unit_row(float* d) const {
    const float square = kernels_.dot(d, d, n_);
    if (square > 0) kernels_.multiply(1.0F / std::sqrt(square), n_, d);
}

void CpuDevice::update(Tensors& sae, const Tensors& gradient, Tensors& first_moment, Tensors& second_moment,
                       const OptimizerStep& step, std::int64_t first, std::int64_t last) {
    const Rates rates = rates_of(step);
    const bool averaging = step.kind != OptimizerStep::Kind::adam;
    // The encoder's integers are made while the new weights are in cache, if a rank will use them. What ranks
    // want was said before the barrier ahead of this step.
    Integers integers;
    if (sae.encoder.size > 0) integers = shared_latents(screen_, sae);
    const bool encode = integers.header != nullptr && integers.header->wanted > 0;
    if (encode) start_screen(screen_, n_, threads_);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t j = first; j < last; ++j) {
        kernels_.optimize(sae.enc(j), first_moment.enc(j), second_moment.enc(j), gradient.enc(j), n_, rates);
        if (encode) make_integers(screen_, integers, j, sae.enc(j));
        float* d = sae.dec(j);
        float* z = first_moment.dec(j);
        kernels_.optimize(d, z, second_moment.dec(j), gradient.dec(j), n_, rates);
        if (!sae.unit_rows) continue;
        unit_row(d);
        if (averaging) unit_row(z);
    }
    if (integers.header != nullptr) integers.header->made = encode ? 1 : 0;
    const auto w = sae.small(), m = first_moment.small(), v = second_moment.small(), g = gradient.small();
    for (std::size_t i = 0; i < w.size(); ++i)
        if (!w[i].empty())
            kernels_.optimize(w[i].data(), m[i].data(), v[i].data(), g[i].data(), std::ssize(w[i]), rates);
}

void CpuDevice::average(Tensors& sae, const Tensors& z, float beta1, std::int64_t first, std::int64_t last) {
    const float weight = 1.0F - 1.0F / beta1;
    const auto mix = [&](float* w, const float* towards, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) w[i] += weight * (towards[i] - w[i]);
    };
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t j = first; j < last; ++j) {
        mix(sae.enc(j), z.enc(j), n_);
        mix(sae.dec(j), z.dec(j), n_);
        if (sae.unit_rows) unit_row(sae.dec(j));
    }
    const auto small = sae.small(), towards = z.small();
    for (std::size_t i = 0; i < small.size(); ++i)
        mix(small[i].data(), towards[i].data(), std::ssize(small[i]));
}

}  // namespace strata::device
