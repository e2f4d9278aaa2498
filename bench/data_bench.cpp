// Reading of activations. Definitions:
//   Convert, SumOfSquares   bytes per second of 16-bit elements read, all in cache or not by the size of the
//   batch;
//                           Copy is a memcpy of the same bytes
//   Stream                  rows per second handed out by next() with nothing else to do, file in the page
//                           cache; CPU time is that of all threads. PlainRead is H5Dread of the same
//                           file, in order, into one buffer
//   StreamWait/MS           time that next() takes where MS milliseconds of another thread's work lie between
//                           its calls, mean and longest
// Items are rows of n = 576 in float16.

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <thread>
#include <vector>

#include "base/memory.h"
#include "data/convert.h"
#include "data/dataset.h"
#include "data/stream.h"
#include "data/writer.h"

namespace {

using namespace strata;
using namespace strata::data;

constexpr std::int64_t n = 576;
constexpr std::int64_t batch_rows = 4096;
constexpr std::int64_t file_rows = 200'000;

// Written once, removed when the program ends.
struct File {
    std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("strata-data-bench-" + std::to_string(::getpid()) + ".h5");
    File() {
        Writer writer(path);
        const std::size_t d = writer.add({"resid_post/0", n, Type::float16, "", "", -1});
        std::vector<float> rows(static_cast<std::size_t>(1000 * n));
        for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = std::sin(static_cast<float>(i));
        for (std::int64_t r = 0; r < file_rows; r += 1000) writer.append(d, rows);
        writer.finish();
    }
    ~File() { std::filesystem::remove(path); }
    Dataset dataset() const { return find_datasets({path.string()}, {"resid_post/0"})[0]; }
};

const File& file() {
    static const File made;
    return made;
}

struct Elements {
    Array<std::byte> raw;
    Array<float> values;
    explicit Elements(std::size_t count) : raw(2 * count), values(count) {}
};

void done(benchmark::State& state, std::size_t bytes) {
    state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes));
}

void BM_Convert(benchmark::State& state, Type type) {
    Elements e(static_cast<std::size_t>(state.range(0)));
    for (auto _ : state) {
        to_float(type, e.raw, e.values, 0.5F);
        benchmark::ClobberMemory();
    }
    done(state, e.raw.size());
}

void BM_ConvertBack(benchmark::State& state, Type type) {
    Elements e(static_cast<std::size_t>(state.range(0)));
    for (auto _ : state) {
        from_float(type, e.values, e.raw);
        benchmark::ClobberMemory();
    }
    done(state, e.raw.size());
}

void BM_SumOfSquares(benchmark::State& state, Type type) {
    Elements e(static_cast<std::size_t>(state.range(0)));
    const std::size_t row = 2 * n;
    float sum = 0;
    for (auto _ : state)
        for (std::size_t i = 0; i + row <= e.raw.size(); i += row)
            sum += sum_of_squares(type, std::span<const std::byte>(e.raw).subspan(i, row));
    benchmark::DoNotOptimize(sum);
    done(state, e.raw.size());
}

void BM_Copy(benchmark::State& state) {
    Elements e(static_cast<std::size_t>(state.range(0)));
    for (auto _ : state) {
        std::memcpy(e.values.data(), e.raw.data(), e.raw.size());
        benchmark::ClobberMemory();
    }
    done(state, e.raw.size());
}

constexpr std::int64_t in_cache = n * 16, out_of_cache = n * batch_rows * 4;
#define SIZES ->Arg(in_cache)->Arg(out_of_cache)
BENCHMARK(BM_Copy) SIZES;
BENCHMARK_CAPTURE(BM_Convert, float16, Type::float16) SIZES;
BENCHMARK_CAPTURE(BM_Convert, bfloat16, Type::bfloat16) SIZES;
BENCHMARK_CAPTURE(BM_ConvertBack, float16, Type::float16) SIZES;
BENCHMARK_CAPTURE(BM_ConvertBack, bfloat16, Type::bfloat16) SIZES;
BENCHMARK_CAPTURE(BM_SumOfSquares, float16, Type::float16) SIZES;

void BM_PlainRead(benchmark::State& state) {
    const Dataset dataset = file().dataset();
    Reader reader(dataset);
    Array<std::byte> raw(static_cast<std::size_t>(batch_rows * n) * 2);
    std::int64_t row = 0;
    for (auto _ : state) {
        reader.read_raw(row, batch_rows, raw);
        row = row + 2 * batch_rows <= file_rows ? row + batch_rows : 0;
    }
    state.SetItemsProcessed(state.iterations() * batch_rows);
}
BENCHMARK(BM_PlainRead)->UseRealTime();

void BM_Stream(benchmark::State& state) {
    keep_freed_memory();  // as main does
    const Dataset dataset = file().dataset();
    DataConfig config;
    InputStatistics statistics;
    statistics.norm_limit = 1e6;
    Stream stream(dataset, config, statistics, batch_rows, 0, 0, 1);
    float sum = 0;
    for (auto _ : state) sum += stream.next().x[0];
    benchmark::DoNotOptimize(sum);
    state.SetItemsProcessed(state.iterations() * batch_rows);
}
BENCHMARK(BM_Stream)->MeasureProcessCPUTime()->UseRealTime()->MinTime(2);

void BM_StreamWait(benchmark::State& state) {
    const Dataset dataset = file().dataset();
    InputStatistics statistics;
    statistics.norm_limit = 1e6;
    Stream stream(dataset, DataConfig(), statistics, batch_rows, 0, 0, 1);
    stream.next();
    double longest = 0;
    for (auto _ : state) {
        std::this_thread::sleep_for(std::chrono::milliseconds(state.range(0)));
        const auto begin = std::chrono::steady_clock::now();
        stream.next();
        const double seconds =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        state.SetIterationTime(seconds);
        longest = std::max(longest, seconds);
    }
    state.counters["longest_ms"] = 1e3 * longest;
}
BENCHMARK(BM_StreamWait)->Arg(5)->Arg(10)->Arg(20)->Arg(80)->UseManualTime()->Iterations(150);

}  // namespace
