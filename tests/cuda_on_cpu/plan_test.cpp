// What the plan says that a GPU must hold beside what the CUDA device takes there.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "comm/self.h"
#include "device/cuda/cuda_device.h"
#include "suite/gpu_memory.h"
#include "support/training.h"

namespace strata {
namespace {

constexpr std::int64_t rows = 192, n = 64, width = 512;
constexpr std::int64_t mib = std::int64_t{1} << 20;

std::int64_t free_memory() {
    std::size_t unused = 0, all = 0;
    EXPECT_EQ(cudaMemGetInfo(&unused, &all), cudaSuccess);
    return static_cast<std::int64_t>(unused);
}

// A kind, and rows that the GPU holds at a time; 0: all.
class PlanOfTheGpu : public testing::TestWithParam<std::pair<const char*, std::int64_t>> {};

TEST_P(PlanOfTheGpu, HoldsWhatTrainingTakes) {
    const auto [kind, at_once] = GetParam();
    Config config;
    config.train.batch_size = rows;
    if (at_once > 0) config.parallel.micro_batch = at_once;
    SaeConfig& sae = config.saes.emplace_back(test::make_config(kind, width, 8));
    sae.aux_k = 16;
    sae.dead_after_tokens = 2 * rows;
    data::Dataset dataset;
    dataset.n = n;
    dataset.rows = 100000;
    data::FilePart& part = dataset.parts.emplace_back();
    part.rows = dataset.rows;
    part.type = data::Type::float16;
    const suite::Job job = suite::jobs_of(config, {dataset}, 1).front();
    const suite::RankMemory plan = suite::gpu_memory(job, config, {.on_gpus = true});

    const std::int64_t before = free_memory();
    reference::Sae<float> start = test::make_problem(rows, n, width).sae;
    for (std::size_t j = 0; j < width; j += 3) start.b_enc[j] -= 3;  // dead ones
    if (sae.kind == std::string("jumprelu")) start.latent.assign(width, 0.1F);
    if (sae.kind == std::string("gated")) start.latent.assign(2 * width, 0.1F);
    const std::unique_ptr<Communicator> self = make_self_communicator();
    test::Training training(*self, start, sae, rows, 1.1, {.rows_at_once = at_once});
    for (int t = 0; t < 4; ++t) {
        if (t == 2) training.set_form(test::Form::lists);
        training.step(test::make_batch(rows, n, t), OptimizerConfig{}, t, 1e-3);
    }
    const std::int64_t taken = before - free_memory();
    EXPECT_LE(taken, plan.total());
    // Of the device's own, but for cuBLASLt's workspace, which is at most what is counted.
    const std::int64_t own = plan.rows + plan.codes + plan.auxiliary + plan.encoder - 32 * mib;
    const auto held = static_cast<std::int64_t>(training.device.workspace_bytes());
    // Tiles and blocks of the tests' device are smaller than those that are counted, and lists shorter.
    EXPECT_LE(held, own);
    EXPECT_GE(held, own / 5);
}

// What grows by doubling stops at the most that it can need, which is what the plan counts.
TEST(DeviceArray, MakesNoMoreRoomThanCanBeNeeded) {
    device::cuda::DeviceArray<float> array("a");
    array.grow(60);
    array.grow(61);
    EXPECT_EQ(array.size(), 120);
    array.grow(121, 200);
    EXPECT_EQ(array.size(), 200);
    array.grow(201, 200);
    EXPECT_EQ(array.size(), 201);
    array.grow(5, 3);
    EXPECT_EQ(array.size(), 201);
}

INSTANTIATE_TEST_SUITE_P(Kinds, PlanOfTheGpu,
                         testing::Values(std::pair("topk", 0), std::pair("batch_topk", 0),
                                         std::pair("relu", 0), std::pair("jumprelu", 0),
                                         std::pair("gated", 0), std::pair("batch_topk", 24),
                                         std::pair("jumprelu", 24)),
                         [](const auto& info) {
                             return fmt::format("{}_{}", info.param.first, info.param.second);
                         });

}  // namespace
}  // namespace strata
