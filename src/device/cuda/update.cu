// The optimiser, then unit decoder rows; a warp to a row.

#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"
#include "device/element.h"

namespace strata::device {
namespace cuda {

// Divides a row by its norm; a warp to a row.
__device__ inline void unit_row(float* d, std::int64_t n) {
    const float square = warp_dot(d, d, n);
    __syncwarp();
    if (square > 0) {
        const float factor = 1.0F / sqrtf(square);
        for (std::int64_t i = lane(); i < n; i += 32) d[i] *= factor;
    }
}

struct UpdatedRows {
    float* w;
    float* m;
    float* v;  // not touched by signum
    const float* g;
    std::int64_t count, n;
    bool unit, unit_m;
};

// 16 bytes read and 12 written an element; a row that is made unit is read again, from L1.
__global__ void update_rows(UpdatedRows rows, Rates rates) {
    const std::int64_t j = global_warp();
    if (j >= rows.count) return;
    const std::int64_t at = j * rows.n;
    for (std::int64_t i = lane(); i < rows.n; i += 32)
        optimize(rates, rows.g[at + i], rows.w[at + i], rows.m[at + i], &rows.v[at + i]);
    __syncwarp();
    if (rows.unit) unit_row(rows.w + at, rows.n);
    if (rows.unit_m) unit_row(rows.m + at, rows.n);
}

__global__ void average_rows(float* w, const float* z, std::int64_t count, std::int64_t n, float weight,
                             bool unit) {
    const std::int64_t j = global_warp();
    if (j >= count) return;
    const std::int64_t at = j * n;
    for (std::int64_t i = lane(); i < n; i += 32) w[at + i] += weight * (z[at + i] - w[at + i]);
    __syncwarp();
    if (unit) unit_row(w + at, n);
}

}  // namespace cuda

using namespace cuda;

namespace {

// A vector as rows of 256, and what is left as one more.
template <typename Each>
void by_rows(std::int64_t size, const Each& each) {
    const std::int64_t whole = size / 256 * 256;
    if (whole > 0) each(0, whole / 256, 256);
    if (size > whole) each(whole, 1, size - whole);
}

}  // namespace

void CudaDevice::update(Tensors& sae, const Tensors& gradient, Tensors& first_moment, Tensors& second_moment,
                        const OptimizerStep& step, std::int64_t first, std::int64_t last) {
    const bool adam = step.kind == OptimizerStep::Kind::adam;
    const Rates rates = rates_of(step);
    const auto update_matrix = [&](float* w, float* m, float* v, const float* g, std::int64_t count,
                                   std::int64_t n, bool unit) {
        launch("update_rows", update_rows, blocks_of(count, block_warps), block_threads, 0, stream_,
               UpdatedRows{w, m, v, g, count, n, unit, unit && !adam}, rates);
    };
    update_matrix(sae.enc(first), first_moment.enc(first), second_moment.enc(first), gradient.enc(first),
                  last - first, sae.n, false);
    update_matrix(sae.dec(first), first_moment.dec(first), second_moment.dec(first), gradient.dec(first),
                  last - first, sae.n, sae.unit_rows);
    const auto w = sae.small(), m = first_moment.small(), v = second_moment.small(), g = gradient.small();
    for (std::size_t i = 0; i < w.size(); ++i)
        by_rows(std::ssize(w[i]), [&](std::int64_t at, std::int64_t count, std::int64_t n) {
            update_matrix(w[i].data() + at, m[i].data() + at, v[i].data() + at, g[i].data() + at, count, n,
                          false);
        });
}

void CudaDevice::average(Tensors& sae, const Tensors& z, float beta1, std::int64_t first, std::int64_t last) {
    const float weight = 1.0F - 1.0F / beta1;
    const auto mix = [&](float* w, const float* towards, std::int64_t count, std::int64_t n, bool unit) {
        launch("average_rows", average_rows, blocks_of(count, block_warps), block_threads, 0, stream_, w,
               towards, count, n, weight, unit);
    };
    mix(sae.enc(first), z.enc(first), last - first, sae.n, false);
    mix(sae.dec(first), z.dec(first), last - first, sae.n, sae.unit_rows);
    const auto small = sae.small(), towards = z.small();
    for (std::size_t i = 0; i < small.size(); ++i)
        by_rows(std::ssize(small[i]), [&](std::int64_t at, std::int64_t count, std::int64_t n) {
            mix(small[i].data() + at, towards[i].data() + at, count, n, false);
        });
}

}  // namespace strata::device
