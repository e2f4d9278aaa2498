#pragma once
// What is not a number ends the run before it can reach a parameter or a checkpoint.

#include <cstdint>

#include "train/step.h"

namespace strata::train {

// RunError on every rank, naming step, SAE, tensor and, where one rank's rows are to blame, that rank: for
// the loss and the summed gradient of a step. Collective; call where the gradient's norm is not finite.
[[noreturn]] void fail_not_finite(Workbench& bench, const TrainedSae& sae, const StepReport& report,
                                  std::int64_t step, double lr);

// The same for parameters and moments, which nothing should have spoilt: before they are saved.
void check_finite(Workbench& bench, const TrainedSae& sae, std::int64_t step);

}  // namespace strata::train
