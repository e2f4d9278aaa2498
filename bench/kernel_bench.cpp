// The inner loops of the CPU device, for every instruction set that this CPU has, at the sizes of a step with
// n = 576. Bytes are those read and written; items are multiplications and additions, or elements where
// nothing is multiplied. Memory stays in cache, as in a step.

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "base/memory.h"
#include "base/random.h"
#include "device/cpu/kernels.h"
#include "device/cpu/screen_kernels.h"

namespace {

using namespace strata;
using device::Kernels;
using device::ScreenKernels;

constexpr std::int64_t n = 576, rows = 256, codes = 64;

Array<float> normal(std::int64_t size) {
    Array<float> values(static_cast<std::size_t>(size));
    Random random(0, Purpose::synthetic);
    for (float& v : values) v = random.normal();
    return values;
}

// Rows in no order.
std::vector<std::uint32_t> picked(std::int64_t count) {
    Random random(1, Purpose::synthetic);
    std::vector<std::uint32_t> all(static_cast<std::size_t>(count));
    for (std::uint32_t& i : all) i = random.below(rows);
    return all;
}

void report(benchmark::State& state, std::int64_t operations, std::int64_t bytes) {
    state.SetItemsProcessed(state.iterations() * operations);
    state.SetBytesProcessed(state.iterations() * bytes);
}

struct Data {
    Array<float> x = normal(rows * n), w = normal(rows * n), v = normal(rows * n), g = normal(rows * n);
    Array<float> out = normal(rows * n), weights = normal(codes), values = normal(rows * n);
    std::vector<std::uint32_t> left = picked(codes), right = picked(codes), found;
    Data() : found(static_cast<std::size_t>(rows * n)) {
        for (float& value : v) value *= value;
    }
};

Data& data() {
    static Data all;
    return all;
}

void dots(benchmark::State& state, const Kernels& k) {
    Data& d = data();
    for (auto _ : state) k.dots(d.x.data(), d.w.data(), d.left.data(), codes, n, d.out.data());
    report(state, 2 * codes * n, 4 * codes * n);
}

void pair_dots(benchmark::State& state, const Kernels& k) {
    Data& d = data();
    for (auto _ : state)
        k.pair_dots(d.x.data(), d.left.data(), d.w.data(), d.right.data(), codes, n, d.out.data());
    report(state, 2 * codes * n, 8 * codes * n);
}

void add_rows(benchmark::State& state, const Kernels& k) {
    Data& d = data();
    for (auto _ : state) k.add_rows(d.w.data(), d.left.data(), d.weights.data(), codes, n, d.out.data());
    report(state, 2 * codes * n, 4 * codes * n);
}

void add_tiles(benchmark::State& state, const Kernels& k) {
    Data& d = data();
    const device::TileSource source{d.x.data(), d.left.data(), d.weights.data(), codes};
    for (auto _ : state)
        benchmark::DoNotOptimize(k.add_tiles(&source, 1, 64, 64, 0.1F, d.w.data(), false, d.out.data()));
    report(state, 2 * codes * 64, 4 * codes * 64);
}

void scan(benchmark::State& state, const Kernels& k) {
    Data& d = data();
    for (auto _ : state)
        benchmark::DoNotOptimize(
            k.scan(d.x.data(), d.w.data(), rows * n, 4, 0, d.found.data(), d.values.data()));
    report(state, rows * n, 8 * rows * n);
}

void optimize(benchmark::State& state, const Kernels& k) {
    Data& d = data();
    const device::Rates rates = device::rates_of({.lr = 1e-9F});
    for (auto _ : state) k.optimize(d.w.data(), d.out.data(), d.v.data(), d.g.data(), rows * n, rates);
    report(state, rows * n, 28 * rows * n);
}

struct Integers {
    Array<float> rotated = normal(n), zero{static_cast<std::size_t>(n)}, sign{static_cast<std::size_t>(n)};
    Array<std::uint8_t> bytes{static_cast<std::size_t>(n)};
    Integers() {
        for (float& s : sign) s = 1;
    }
};

void rotate(benchmark::State& state, const ScreenKernels& k) {
    Integers i;
    for (auto _ : state) k.rotate(data().x.data(), i.zero.data(), i.sign.data(), n, n, i.rotated.data());
    report(state, n, 8 * n);
}

void quantize(benchmark::State& state, const ScreenKernels& k) {
    Integers i;
    for (auto _ : state)
        benchmark::DoNotOptimize(
            k.quantize(i.rotated.data(), i.zero.data(), i.zero.data(), n, true, i.bytes.data()));
    report(state, n, 5 * n);
}

// A tile of latents against 240 rows of which none passes.
void screen(benchmark::State& state, const ScreenKernels& k) {
    constexpr std::int64_t screened = 240;
    Array<std::uint8_t> left(screened * n), right(static_cast<std::size_t>(k.tile_columns * n));
    std::fill(left.begin(), left.end(), std::uint8_t{1});
    std::fill(right.begin(), right.end(), std::uint8_t{1});
    const std::vector<float> low(screened, -1e9F), zero(screened, 0.0F);
    std::vector<std::uint32_t> row(static_cast<std::size_t>(screened * k.tile_columns)), latent(row.size());
    std::vector<float> value(row.size());
    const device::ScreenTile tile{.rows = left.data(),
                                  .latents = right.data(),
                                  .row_tiles = screened / k.tile_rows,
                                  .steps = n / 4,
                                  .row_add = low.data(),
                                  .row_inverse = zero.data(),
                                  .row_limit = zero.data(),
                                  .latent_add = zero.data(),
                                  .latent_bias = zero.data(),
                                  .latent_inverse = zero.data(),
                                  .first_latent = 0};
    for (auto _ : state) benchmark::DoNotOptimize(k.screen(tile, row.data(), latent.data(), value.data()));
    report(state, 2 * screened * k.tile_columns * n, screened * n);
}

const bool registered = [] {
    const std::pair<const char*, void (*)(benchmark::State&, const Kernels&)> of_all[] = {
        {"Dots", dots},          {"PairDots", pair_dots}, {"AddRows", add_rows},
        {"AddTiles", add_tiles}, {"Scan", scan},          {"Adam", optimize}};
    for (const Kernels& set : device::all_kernels())
        for (const auto& [name, work] : of_all)
            benchmark::RegisterBenchmark(fmt::format("Kernel_{}/{}", name, set.target).c_str(),
                                         [set, work](benchmark::State& state) { work(state, set); });
    const std::pair<const char*, void (*)(benchmark::State&, const ScreenKernels&)> of_screens[] = {
        {"Rotate", rotate}, {"Quantize", quantize}, {"Screen", screen}};
    for (const ScreenKernels& set : device::all_screen_kernels())
        for (const auto& [name, work] : of_screens)
            benchmark::RegisterBenchmark(fmt::format("Kernel_{}/{}", name, set.target).c_str(),
                                         [set, work](benchmark::State& state) { work(state, set); });
    return true;
}();

}  // namespace
