#pragma once
// metrics.jsonl for TensorBoard (run.tensorboard): OUTPUT/tensorboard/NAME/events.out.tfevents.*, a file for
// each session of an SAE.

#include <filesystem>
#include <map>
#include <string>

#include "train/metrics.h"

namespace strata::train {

class TensorboardFiles {
  public:
    explicit TensorboardFiles(const std::filesystem::path& output) : folder_(output / "tensorboard") {}

    // The numbers of a line of metrics.jsonl, under their names there, at its step; the file is made when
    // there is something to write. What earlier sessions left of this step and later ones, since they went on
    // after the checkpoint that this one began from, TensorBoard then drops. RunError if writing fails.
    void write(const Metrics& metrics);

  private:
    std::filesystem::path folder_;
    std::map<std::string, std::filesystem::path> files_;  // by SAE; opened for every write: SAEs may be many
};

}  // namespace strata::train
