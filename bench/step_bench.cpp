// The verbs of a training step on the CPU, B = 4096, n = 576, M = 16384, by k. Definitions:
//   Product      the plain oneDNN f32 product x[B, n] . W[n, M], result stored: what dense trainers pay
//   several times Step         a whole batch_topk step; Select, Decode, Accumulate, Update are its parts
//   CopyWeights  a memcpy of as many bytes as Update reads and writes: its physical bound
// Items are rows.

#include <benchmark/benchmark.h>

#include <cstring>
#include <dnnl.hpp>
#include <map>

#include "trained.h"

namespace {

using namespace strata;
using namespace strata::bench;

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
