#pragma once
// The output folder of a run: who may write there, and what is left at the end.

#include <filesystem>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "data/stream.h"
#include "device/device.h"
#include "eval/evaluate.h"
#include "train/step.h"

namespace strata::train {

// Held by rank 0 for the life of a run: a second run in the same folder is refused, also with --resume. The
// system gives it back when the process ends, however it ends. Where the file system knows no locks, a
// warning.
class OutputLock {
  public:
    OutputLock() = default;
    explicit OutputLock(const std::filesystem::path& output);
    OutputLock(OutputLock&& other) noexcept;
    OutputLock& operator=(OutputLock&& other) noexcept;
    ~OutputLock();

  private:
    int descriptor_ = -1;
};

// Makes the folder and takes the lock. UsageError if it cannot be written to, if another run holds it, if it
// holds a run already and `resume` is not set, or if it holds files of the names that a run writes, and no
// run.
OutputLock open_output(const Config& config, bool resume);

// OUTPUT/saes/NAME, scale and decoder norms folded in, elementwise rules as JumpReLU; replaces what an
// interrupted run left there.
void save_sae(const std::filesystem::path& output, const Workbench& bench, const TrainedSae& sae,
              const data::Dataset& dataset, const data::InputStatistics& statistics, const Config& config,
              const nlohmann::json& measures);

// An entry of summary.json: the held-out measures, in scaled units, by inference and by training rule.
nlohmann::json summary_entry(const TrainedSae& sae, const data::Dataset& dataset,
                             const eval::Measures& inference, double l0_train_rule,
                             const data::InputStatistics& statistics, std::int64_t steps, std::int64_t tokens,
                             const data::LeftOut& left_out, std::int64_t dead);

// Adds entries to OUTPUT/summary.json (made if missing), replacing those of the same name.
void add_to_summary(const std::filesystem::path& output, const nlohmann::json& entries);

}  // namespace strata::train
