#pragma once
// One job from its beginning, or its newest checkpoint, to its saved SAEs; by one group of ranks.

#include <filesystem>
#include <memory>

#include "comm/communicator.h"
#include "config/config.h"
#include "device/device.h"
#include "suite/suite.h"
#include "train/coordinator.h"
#include "train/replicas.h"

namespace strata::train {

// What stays the same for all jobs of a group.
struct Group {
    const Config& config;
    Communicator& comm;
    CoordinatorLine line;  // rank 0 of the group speaks
    device::Device& device;
    const Replicas& replicas;
    std::int64_t micro_batch = 0;  // of suite::Layout
    bool spare_core = false;
    bool bar = false;  // the progress bar is this rank's
};

// `checkpoints`: where those of the job lie. False if it was stopped before its end, with a checkpoint saved.
// Collective over the group.
bool train_job(Group& group, const suite::Job& job, std::size_t index,
               const std::filesystem::path& checkpoints);

}  // namespace strata::train
