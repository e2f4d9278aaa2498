// What a checkpoint takes from training: 100 steps are long beside it, so that two runs, with and without,
// differ by less than their noise. Steps while it is written are compared with those just before and after,
// many times over. Definitions:
//   Lost       the copy between two steps, the end of it, and by how much the steps meanwhile were longer
// Files go to a folder of the temporary one (TMPDIR), which should be on the disk that is meant.

#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <vector>

#include "train/checkpoint.h"
#include "train/finite.h"
#include "trained.h"

namespace {

using namespace strata;
using namespace strata::bench;

// Of the steps beside the one checkpoint: as many before as after.
constexpr int quiet_steps = 6;

template <typename Work>
double seconds_of(const Work& work) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> values) {
    const auto middle = values.begin() + std::ssize(values) / 2;
    std::ranges::nth_element(values, middle);
    return *middle;
}

void lost(benchmark::State& state) {
    Trained t(32);
    const auto folder =
        std::filesystem::temp_directory_path() / ("strata-checkpoint-" + std::to_string(::getpid()));
    train::CheckpointWriter writer(folder, *t.device, t.replicas, 1);
    const auto step = [&] { t.step(); };
    std::vector<double> copies, losses, writing, quiet;
    for (auto _ : state) {
        std::vector<double> beside;
        for (int i = 0; i < quiet_steps; ++i) beside.push_back(seconds_of(step));
        train::Progress progress;
        progress.step = t.steps;
        double copy = seconds_of([&] {
            train::check_finite(*t.bench, t.sae, t.steps);
            writer.begin(progress, {&t.sae, 1});
        });
        copies.push_back(copy);
        double meanwhile = 0;
        int steps = 0;
        for (; !writer.written(); ++steps) meanwhile += seconds_of(step);
        meanwhile += seconds_of([&] { writer.finish(); });
        for (int i = 0; i < quiet_steps; ++i) beside.push_back(seconds_of(step));
        const double one = median(beside);
        losses.push_back(copy + meanwhile - steps * one);
        writing.push_back(meanwhile);
        quiet.push_back(one);
    }
    std::filesystem::remove_all(folder);
    state.counters["copy_ms"] = 1e3 * median(copies);
    state.counters["write_ms"] = 1e3 * median(writing);
    state.counters["lost_ms"] = 1e3 * median(losses);
    state.counters["step_ms"] = 1e3 * median(quiet);
    state.counters["lost_of_100_steps_percent"] = median(losses) / median(quiet);
}
BENCHMARK(lost)->Name("Lost")->Iterations(10)->UseRealTime()->Unit(benchmark::kSecond);

}  // namespace
