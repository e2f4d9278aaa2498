#pragma once
// One training step of one SAE, by the verbs of the design: encode, gate, decode, backprop, accumulate,
// reduce, update.

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/reducer.h"
#include "config/config.h"
#include "data/stream.h"
#include "device/device.h"
#include "sae/kind.h"

namespace strata::train {

// An SAE and everything that its next step depends on.
struct TrainedSae {
    std::string name;
    SaeConfig config;
    const sae::Kind* kind = nullptr;
    double rate = 0;  // learning rate before the schedule
    device::Tensors parameters;
    device::Tensors first, second;      // Adam's moments
    std::vector<std::uint64_t> silent;  // [M] rows of all ranks since the latent last fired
    float guess = 0, margin = 0;        // of the screen; see sae::Selecting
    std::vector<float> thresholds;      // [M] of inference; empty until calibrated
};

// What the SAEs of one stream share.
struct Workbench {
    device::Device& device;
    Communicator& comm;
    Reducer& reducer;
    device::Tensors gradient;  // large enough for the widest SAE
    std::int64_t batch_size = 0;
    double mean_square = 1;  // E|x|^2 of the scaled rows
};

struct StepReport {
    device::DecodeSums sums;    // this rank's
    float threshold = 0;        // smallest value that could be selected
    double auxiliary_loss = 0;  // all ranks
    double gradient_norm = 0;   // before clipping, after the decoder projection
    std::int64_t dead = 0;      // latents, before the step
};

TrainedSae make_sae(device::Device& device, const SaeConfig& config, std::string name, std::int64_t n);

// `step` counts from 0. RunError, naming the SAE, if the gradient is not finite.
StepReport train_step(Workbench& bench, TrainedSae& sae, const OptimizerConfig& optimizer,
                      const data::Batch& batch, std::int64_t step, double lr);

}  // namespace strata::train
