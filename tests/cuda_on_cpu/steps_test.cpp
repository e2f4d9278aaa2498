// What a step asks of the host: how often it waits for the GPU, and launches.

#include <gtest/gtest.h>

#include "comm/self.h"
#include "support/problem.h"
#include "support/test_device.h"
#include "support/training.h"

namespace strata {
namespace {

constexpr std::int64_t rows = 50, n = 32, width = 400;

struct Asked {
    std::uint64_t waits = 0, launches = 0;
};

// Of each of some steps, with latents that are dead from the third on where the kind has a loss of theirs.
std::vector<Asked> asked_by(const char* kind, bool dead, int steps) {
    SaeConfig config = test::make_config(kind, width, 6);
    config.aux_k = 16;
    config.dead_after_tokens = dead ? 2 * rows : 1000 * rows;
    reference::Sae<float> start = test::make_problem(rows, n, width).sae;
    if (dead)
        for (std::size_t j = 0; j < width; j += 3) start.b_enc[j] -= 30;
    if (kind == std::string("jumprelu")) start.latent.assign(width, 0.1F);
    const std::unique_ptr<Communicator> self = make_self_communicator();
    test::Training training(*self, start, config, rows, 1.1, {});
    const auto& stream = dynamic_cast<device::CudaDevice&>(training.device).stream();
    std::vector<Asked> asked;
    for (int t = 0; t < steps; ++t) {
        training.set_form(test::Form::lists);
        const Asked before{stream.waits(), cuda_on_cpu::launches()};
        training.step(test::make_batch(rows, n, 0), OptimizerConfig{}, t, dead ? 0 : 1e-5);
        asked.push_back({stream.waits() - before.waits, cuda_on_cpu::launches() - before.launches});
    }
    return asked;
}

// How many candidates there are, which of them are codes, which latents fired (with all sums), the norms.
TEST(StepOfTheGpu, WaitsFourTimes) {
    EXPECT_EQ(asked_by("batch_topk", false, 6).back().waits, 4U);
    EXPECT_EQ(asked_by("topk", false, 6).back().waits, 3U);
}

// And for what the host does with its thresholds and their gradients.
TEST(StepOfTheGpu, WaitsTenTimesWithThresholdsOfLatents) {
    EXPECT_EQ(asked_by("jumprelu", false, 6).back().waits, 10U);
}

// And for the sums of the errors, and how many candidates the dead latents have.
TEST(StepOfTheGpu, WaitsTwiceMoreForDeadLatents) {
    EXPECT_EQ(asked_by("batch_topk", true, 6).back().waits, 6U);
}

// 3 tiles of rows and 5 of latents: a scan of each, 4 kernels for the rows of a tile; a graph in their place.
TEST(StepOfTheGpu, LaunchesItsEncoderAtOnceWhereThereAreGraphs) {
    const Asked with = asked_by("batch_topk", false, 6).back();
    cuda_on_cpu::set_graphs(false);
    const Asked without = asked_by("batch_topk", false, 6).back();
    cuda_on_cpu::set_graphs(true);
    EXPECT_EQ(without.launches - with.launches, 3U * (5 + 4) - 1);
    EXPECT_EQ(without.waits, 4U);
}

}  // namespace
}  // namespace strata
