#include "train/reduce.h"

#include <algorithm>
#include <array>

namespace strata::train {
namespace {

// The rows [first, last) of both matrices, of every rank what it updates.
std::vector<DeviceSums::Part> parts_by_owner(const Replicas& replicas, const device::Tensors& t,
                                             std::int64_t first, std::int64_t last) {
    std::vector<DeviceSums::Part> parts;
    for (int rank = 0; rank < replicas.group->size(); ++rank) {
        const Slice slice = replicas.updated_by(rank, t.width);
        const std::int64_t begin = std::max(first, slice.first), end = std::min(last, slice.last);
        if (begin >= end) continue;
        const auto count = static_cast<std::size_t>((end - begin) * t.n);
        parts.push_back({{t.enc(begin), count}, rank});
        parts.push_back({{t.dec(begin), count}, rank});
    }
    return parts;
}

}  // namespace

void hand_on(Workbench& bench, std::int64_t first, std::int64_t last) {
    device::Tensors& gradient = bench.gradient;
    if (bench.sums != nullptr) {
        bench.sums->add(parts_by_owner(bench.replicas, gradient, first, last));
        return;
    }
    const std::size_t count = static_cast<std::size_t>((last - first) * gradient.n);
    const std::array<std::span<float>, 2> matrices = {std::span(gradient.enc(first), count),
                                                      std::span(gradient.dec(first), count)};
    bench.reducer.submit(matrices);
}

double reduce_gradients(Workbench& bench, bool dense) {
    device::Device& device = bench.device;
    device::Tensors& gradient = bench.gradient;
    const Replicas& replicas = bench.replicas;
    if (bench.sums != nullptr) {
        std::vector<DeviceSums::Part> small;
        for (const std::span<float> values : gradient.small()) small.push_back({values});
        bench.sums->add(small);
        bench.sums->finish();
    } else {
        for (const std::span<float> small : gradient.small()) replicas.all.sum(small);
    }
    const Slice slice = replicas.updated(gradient.width);
    const auto n = static_cast<std::size_t>(gradient.n);
    const std::size_t at = static_cast<std::size_t>(slice.first) * n;
    const std::size_t count = static_cast<std::size_t>(slice.last - slice.first) * n;
    bench.reducer.wait();
    // Of this rank's slice of the two matrices, and of the rest, which every rank has.
    double norm = 0;
    if (dense && replicas.share_memory()) {
        replicas.group->barrier();  // every rank's gradients are made
        for (const auto& [of_ranks, own] : {std::pair{&bench.w_enc_gradients, gradient.w_enc.data()},
                                            std::pair{&bench.w_dec_gradients, gradient.w_dec.data()}}) {
            std::vector<const float*> parts;
            for (const float* rank : *of_ranks) parts.push_back(rank + at);
            norm += device.sum_in_order(parts, count, own + at);
            if (replicas.across->size() > 1) bench.reducer.submit({own + at, count});
        }
        bench.reducer.wait();
    }
    std::array<std::span<float>, 6> arrays{};
    std::ranges::copy(gradient.small(), arrays.begin());
    const bool summed = bench.sums != nullptr || replicas.across->size() > 1;
    if (summed) {
        arrays[4] = {gradient.w_enc.data() + at, count};
        arrays[5] = {gradient.w_dec.data() + at, count};
    }
    std::array<double, arrays.size()> norms{};
    device.square_norms(arrays, norms);
    if (summed)
        norm = norms[4] + norms[5];
    else if (!(dense && replicas.share_memory()))
        norm = device.gradient_norm();
    replicas.group->sum(std::span(&norm, 1));
    for (std::size_t i = 0; i < 4; ++i) norm += norms[i];
    return norm;
}

void spread_weights(Workbench& bench, const device::Tensors& sae) {
    if (bench.sums == nullptr) {
        bench.replicas.group->barrier();
        return;
    }
    bench.sums->spread(parts_by_owner(bench.replicas, sae, 0, sae.width));
    bench.sums->finish();
}

}  // namespace strata::train
