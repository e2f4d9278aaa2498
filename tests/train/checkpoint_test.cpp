// What a checkpoint holds besides tensors, which tests/programs/resume.sh compares. Run at 1, 2, 3 and 4
// ranks.

#include "train/checkpoint.h"

#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "device/cpu/cpu_device.h"
#include "support/shared_folder.h"

namespace strata::train {
namespace {

TEST(Checkpoint, KeepsProgressBitForBit) {
    const auto comm = make_mpi_communicator();
    const test::SharedFolder folder(*comm);
    const std::filesystem::path output = folder / "";
    device::CpuDevice device(1);
    const Replicas replicas(*comm);
    CheckpointWriter writer(output, device, replicas, 1);
    Progress progress;
    progress.step = 77;
    progress.statistics.median_norm = 0.1;
    progress.statistics.norm_limit = 1.0 / 3;
    progress.statistics.mean_square = 1e-300;
    progress.statistics.scale = 7.0 / 9;
    progress.statistics.mean = {1.0 / 7, -2};
    progress.statistics.sampled_rows = 65536;
    progress.cursors = {{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}};
    const std::filesystem::path cut_short = output / "step-5/sae.parameters";
    if (comm->rank() == 0) std::filesystem::create_directories(cut_short);
    comm->barrier();
    for (const std::vector<double>& target_mean :
         {std::vector<double>(), std::vector<double>{2.0 / 3, 1e300}}) {
        progress.statistics.target_mean = target_mean;
        ++progress.step;
        writer.begin(progress, {});
        EXPECT_TRUE(writer.pending());
        writer.finish();
        EXPECT_FALSE(writer.pending());
        const auto found = newest_checkpoint(output);
        ASSERT_TRUE(found);
        const Progress& p = found->progress;
        EXPECT_EQ(p.step, progress.step);
        EXPECT_EQ(p.statistics.median_norm, progress.statistics.median_norm);
        EXPECT_EQ(p.statistics.norm_limit, progress.statistics.norm_limit);
        EXPECT_EQ(p.statistics.mean_square, progress.statistics.mean_square);
        EXPECT_EQ(p.statistics.scale, progress.statistics.scale);
        EXPECT_EQ(p.statistics.mean, progress.statistics.mean);
        EXPECT_EQ(p.statistics.target_mean, target_mean);
        EXPECT_EQ(p.statistics.sampled_rows, 65536);
        ASSERT_EQ(p.cursors.size(), 2);
        EXPECT_EQ(p.cursors[1].offset, 8);
        EXPECT_EQ(p.cursors[1].skipped, 9);
        EXPECT_EQ(p.cursors[1].corrupt, 10);
        comm->barrier();
        EXPECT_FALSE(std::filesystem::exists(cut_short.parent_path()))
            << "what a killed run left of a checkpoint";
    }
}

}  // namespace
}  // namespace strata::train
