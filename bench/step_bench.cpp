// The verbs of a training step on the CPU, B = 4096, n = 576, M = 16384, by k. Definitions:
//   Product      the plain oneDNN f32 product x[B, n] . W[n, M], result stored: what dense trainers pay
//   several times Step         a whole batch_topk step; Select, Decode, Accumulate, Update are its parts
//   CopyWeights  a memcpy of as many bytes as Update reads and writes: its physical bound
// Items are rows.

#include <benchmark/benchmark.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <dnnl.hpp>
#include <map>

#include "base/memory.h"
#include "base/random.h"
#include "comm/reducer.h"
#include "comm/self.h"
#include "device/cpu/kernels.h"
#include "sae/sae.h"
#include "train/step.h"

namespace {

using namespace strata;

constexpr std::int64_t rows = 4096, n = 576, width = 16384;

// Sums of a few of 2048 directions, as real activations are; E|x|^2 = 1.
Array<float> make_rows() {
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
        sae::initialise(*device, sae.parameters, 0, std::vector<float>(n, 0.0F), 0, width);
        for (int i = 0; i < 30; ++i) step();
    }
    void step() { train::train_step(*bench, sae, {}, {.x = x, .rows = rows}, steps++, 1e-3); }
    void select() {
        sae.kind->select({*device, *comm, sae.parameters, config, rows, rows, sae.guess, sae.margin});
    }
    void decode() { device->decode(device::CodeSet::main, sae.parameters, 2.0F / rows); }
    void accumulate() {
        const device::SetUse main{.set = device::CodeSet::main};
        device->accumulate({&main, 1}, {}, sae.parameters, bench->gradient, {&sums, 1},
                           [](std::int64_t, std::int64_t) {});
    }
    void update() { device->update(sae.parameters, bench->gradient, sae.first, sae.second, {}, 0, width); }
};

Trained& trained(std::int64_t k) {
    static std::map<std::int64_t, std::unique_ptr<Trained>> made;
    std::unique_ptr<Trained>& one = made[k];
    if (!one) one = std::make_unique<Trained>(static_cast<double>(k));
    return *one;
}

void BM_Product(benchmark::State& state) {
    const Array<float> x = make_rows();
    Array<float> weights(n * width), product(rows * width);
    std::copy_n(trained(64).sae.parameters.w_enc.data(), n * width, weights.data());
    for (auto _ : state)
        dnnl_sgemm('N', 'N', rows, width, n, 1, x.data(), n, weights.data(), width, 0, product.data(), width);
    state.SetItemsProcessed(state.iterations() * rows);
}
BENCHMARK(BM_Product)->UseRealTime()->Unit(benchmark::kMillisecond);

template <void (Trained::*part)()>
void BM_Part(benchmark::State& state) {
    Trained& t = trained(state.range(0));
    t.step();
    t.select();
    t.decode();
    t.accumulate();
    for (auto _ : state) (t.*part)();
    state.SetItemsProcessed(state.iterations() * rows);
}
#define PART(name, member)                        \
    BENCHMARK_TEMPLATE(BM_Part, &Trained::member) \
        ->Name(name)                              \
        ->Arg(32)                                 \
        ->Arg(64)                                 \
        ->UseRealTime()                           \
        ->Unit(benchmark::kMillisecond)
PART("BM_Step", step);
PART("BM_Select", select);
PART("BM_Decode", decode);
PART("BM_Accumulate", accumulate);
PART("BM_Update", update);

// Adam reads weight, gradient and two moments, writes weight and moments: 7 floats for each of 2 n M weights.
void BM_CopyWeights(benchmark::State& state) {
    constexpr std::size_t count =
        static_cast<std::size_t>(7 * n * width);  // copied: count read and count written
    Array<float> from(count), to(count);
    for (auto _ : state) {
#pragma omp parallel for schedule(static)
        for (std::size_t at = 0; at < count; at += count / 64)
            std::memcpy(to.data() + at, from.data() + at, std::min(count / 64, count - at) * sizeof(float));
        benchmark::ClobberMemory();
    }
    state.SetItemsProcessed(state.iterations() * rows);
}
BENCHMARK(BM_CopyWeights)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
