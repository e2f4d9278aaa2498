#pragma once
// The end of an SAE's training: its threshold in use, and its measures on the held-out rows.

#include <nlohmann/json.hpp>

#include "config/config.h"
#include "data/dataset.h"
#include "data/stream.h"
#include "eval/calibrate.h"
#include "train/step.h"

namespace strata::train {

// Takes the average where the optimiser makes one, calibrates on the batches of `following` and measures on
// the last eval_rows of the dataset; returns the SAE's entry of summary.json. Collective.
nlohmann::json finish_sae(Workbench& bench, TrainedSae& sae, const Config& config,
                          const data::Dataset& dataset, const data::InputStatistics& statistics,
                          const eval::EachBatch& following, const data::LeftOut& left_out);

}  // namespace strata::train
