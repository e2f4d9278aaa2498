#include "train/reduce.h"

#include <array>

namespace strata::train {

void hand_on(Workbench& bench, std::int64_t first, std::int64_t last) {
    if (bench.replicas.group->size() > 1) return;  // summed where they lie, when all are done
    device::Tensors& gradient = bench.gradient;
    const std::size_t at = static_cast<std::size_t>(first * gradient.n);
    const std::size_t count = static_cast<std::size_t>((last - first) * gradient.n);
    const std::array<std::span<float>, 2> matrices = {std::span(gradient.w_enc.data() + at, count),
                                                      std::span(gradient.w_dec.data() + at, count)};
    bench.reducer.submit(matrices);
}

double reduce_gradients(Workbench& bench, double own_norm) {
    device::Device& device = bench.device;
    device::Tensors& gradient = bench.gradient;
    const Replicas& replicas = bench.replicas;
    double norm = own_norm;
    if (device.host_memory()) {
        for (const std::span<float> small : gradient.small()) replicas.all.sum(small);
    } else {
        bench.reducer.submit(gradient.small());  // over all ranks, as each is a group by itself
    }
    const Slice slice = replicas.updated(gradient.width);
    const auto n = static_cast<std::size_t>(gradient.n);
    const std::size_t at = static_cast<std::size_t>(slice.first) * n;
    const std::size_t count = static_cast<std::size_t>(slice.last - slice.first) * n;
    bench.reducer.wait();
    if (replicas.group->size() > 1) {
        replicas.group->barrier();  // every rank's gradients are made
        norm = 0;
        for (const auto& [of_ranks, own] : {std::pair{&bench.w_enc_gradients, gradient.w_enc.data()},
                                            std::pair{&bench.w_dec_gradients, gradient.w_dec.data()}}) {
            std::vector<const float*> parts;
            for (const float* rank : *of_ranks) parts.push_back(rank + at);
            norm += device.sum_in_order(parts, count, own + at);
            if (replicas.across->size() > 1) bench.reducer.submit({own + at, count});
        }
        bench.reducer.wait();
    }
    if (replicas.across->size() > 1)
        norm = device.square_norm({gradient.w_enc.data() + at, count}) +
               device.square_norm({gradient.w_dec.data() + at, count});
    replicas.group->sum(std::span(&norm, 1));
    for (const std::span<float> small : gradient.small()) norm += device.square_norm(small);
    return norm;
}

}  // namespace strata::train
