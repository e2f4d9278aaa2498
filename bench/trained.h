#pragma once
// An SAE for benchmarks: B = 4096, n = 576, M = 16384, on rows that are sparse as real activations are.

#include <omp.h>

#include <cmath>
#include <memory>

#include "base/memory.h"
#include "base/random.h"
#include "comm/reducer.h"
#include "comm/self.h"
#include "device/cpu/kernels.h"
#include "sae/sae.h"
#include "train/step.h"

namespace strata::bench {

inline constexpr std::int64_t rows = 4096, n = 576, width = 16384;

// Sums of a few of 2048 directions, as real activations are; E|x|^2 = 1.
inline Array<float> make_rows() {
    constexpr std::int64_t directions = 2048;
    Array<float> basis(directions * n), x(rows * n);
    Random random(0, Purpose::synthetic);
    for (float& v : basis) v = random.normal();
    const device::Kernels& kernels = device::kernels();
    for (std::int64_t b = 0; b < rows; ++b) {
        float* row = x.data() + b * n;
        for (int i = 0; i < 24; ++i)
            kernels.add(basis.data() + random.below(directions) * n, -std::log(1.0F - random.uniform()), n,
                        row);
        kernels.multiply(1.0F / std::sqrt(kernels.dot(row, row, n)), n, row);
    }
    return x;
}

// An SAE that has trained for some steps on one batch, with the batch selected and its gradients made.
struct Trained {
    Array<float> x = make_rows();
    std::unique_ptr<Communicator> comm = make_self_communicator();
    std::unique_ptr<device::Device> device = device::make_cpu_device(omp_get_num_procs());
    Reducer reducer{*comm, false};
    train::Replicas replicas{*comm};
    SaeConfig config;
    train::TrainedSae sae;
    std::unique_ptr<train::Workbench> bench;
    device::LatentSums sums;
    std::int64_t steps = 0;

    explicit Trained(double k) {
        config.width = width;
        config.k = k;
        device->prepare(rows, n, width, static_cast<std::int64_t>(k) * rows);
        const device::Shape shape = sae::shape_of(config, n, false);
        sae = train::make_sae(*device, replicas, config, "bench", shape);
        bench = std::make_unique<train::Workbench>(
            train::make_workbench(*device, replicas, reducer, nullptr, shape, rows));
        sae::initialise(*device, sae.parameters, 0, std::vector<float>(n, 0.0F),
                        {.norm = sae::beginning_of(config, shape).encoder_norm}, 0, width);
        for (int i = 0; i < 30; ++i) step();
    }
    void step() { train::train_step(*bench, sae, {}, {.x = x, .rows = rows}, steps++, 1e-3); }
    void select() {
        sae.kind->select(
            {*device, *comm, nullptr, sae.parameters, config, rows, rows, sae.guess, sae.margin});
    }
    void decode() { device->decode(device::CodeSet::main, sae.parameters, 2.0F / rows); }
    void accumulate() {
        const device::SetUse main{.set = device::CodeSet::main};
        device->accumulate({&main, 1}, {}, sae.parameters, bench->gradient, {&sums, 1},
                           [](std::int64_t, std::int64_t) {});
    }
    void update() { device->update(sae.parameters, bench->gradient, sae.first, sae.second, {}, 0, width); }
};

}  // namespace strata::bench
