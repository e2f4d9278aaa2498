#pragma once
// A job as it is trained: what it holds between two steps.

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "comm/reducer.h"
#include "data/stream.h"
#include "train/checkpoint.h"
#include "train/job.h"
#include "train/step.h"
#include "train/tensorboard.h"

namespace strata::train {

// One dataset and the SAEs on its stream.
struct Training {
    const suite::Job& job;
    std::vector<TrainedSae> saes;
    Progress progress;
    std::unique_ptr<Workbench> bench;
    std::unique_ptr<Reducer> reducer;
    std::unique_ptr<DeviceSums> sums;
    std::unique_ptr<data::Stream> stream;
    std::unique_ptr<CheckpointWriter> checkpoints;
    std::optional<TensorboardFiles> tensorboard;  // rank 0, where asked for
    std::chrono::steady_clock::time_point checkpoint_begun;
};

// SAEs and stream as they begin, or as the checkpoint has them. Collective.
Training begin_training(Group& group, const suite::Job& job, const std::optional<Checkpoint>& from);

}  // namespace strata::train
