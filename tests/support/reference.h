#pragma once
// Training as its formulas say it: dense, one loop per sum, in any precision. Slow and obvious; what the
// devices compute is compared with this, and this with finite differences of its own losses and with PyTorch
// (tests/golden).
//
//   reference_parameters.h   kinds, tensors, rules
//   reference_forward.h      selection, codes, residuals
//   reference_loss.h         the losses, with what training holds constant held
//   reference_gradient.h     their gradients
//   reference_atm.h          adaptive masking
//   reference_optimiser.h    Adam, schedule-free averaging
//   reference_step.h         the step, in order; resampling

#include "support/reference_step.h"
