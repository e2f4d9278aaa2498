#pragma once
// One training step of one SAE, by the verbs of the design: encode, gate, decode, backprop, accumulate,
// reduce, update.

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/device_sums.h"
#include "comm/reducer.h"
#include "config/config.h"
#include "data/stream.h"
#include "device/device.h"
#include "formats/saelens.h"
#include "sae/kind.h"
#include "train/atm.h"
#include "train/replicas.h"

namespace strata::train {

// An SAE and everything that its next step depends on.
struct TrainedSae {
    std::string name;
    SaeConfig config;
    const sae::Kind* kind = nullptr;
    double rate = 0;  // learning rate before the schedule
    device::Tensors parameters;
    // Adam's moments; schedule-free, z and the second moment. Of the matrices the slice that this rank
    // updates.
    device::Tensors first, second;
    double largest_rate = 0, weight_sum = 0;  // of schedule-free averaging
    std::vector<std::uint64_t> silent;        // [M] rows of all ranks since the latent last fired
    float guess = 0, margin = 0;              // of the screen; see sae::Selecting
    // Elementwise kinds: the codes of the last step and half of those of the other sets (gate, window,
    // observed), which cost about half, of all ranks, as a share of B M.
    double density = 1;
    AtmState atm;
    std::int64_t resampled_at = -1;  // step that last gave latents a new start; -1: none
    std::vector<float> thresholds;   // [M] of inference; empty until calibrated
};

inline constexpr std::int64_t all_rows = std::numeric_limits<std::int64_t>::max();

// What the SAEs of one stream share.
struct Workbench {
    device::Device& device;
    const Replicas& replicas;
    Reducer& reducer;                                            // over replicas.across
    DeviceSums* sums;                                            // over replicas.all; null: host memory
    device::Tensors gradient;                                    // large enough for the widest SAE
    std::vector<const float*> w_enc_gradients, w_dec_gradients;  // of the ranks of a group that shares memory
    std::int64_t batch_size = 0;
    std::int64_t steps = 0;  // of the run
    double mean_square = 1;  // E|x|^2 of the scaled rows
    std::uint64_t seed = 0;
    std::int64_t list_pairs = sae::most_list_pairs;  // of a range of rows by lists
    std::int64_t rows_at_once = all_rows;  // that the device holds, a multiple of device::range_rows

    Communicator& comm() const { return replicas.all; }
    std::int64_t tokens() const { return steps * batch_size; }
};

// `sums`: of device::make_device_sums(). `shape`: large enough for every SAE of the stream. Collective.
Workbench make_workbench(device::Device& device, const Replicas& replicas, Reducer& reducer, DeviceSums* sums,
                         device::Shape shape, std::int64_t batch_size);

struct StepReport {
    device::DecodeSums sums;            // this rank's
    float threshold = 0;                // smallest value that could be selected
    double auxiliary_loss = 0;          // all ranks
    std::uint64_t auxiliary_codes = 0;  // this rank's
    double penalty = 0;                 // all ranks
    double gradient_norm = 0;           // before clipping, after the decoder projection
    std::int64_t dead = 0;              // latents, before the step
    std::int64_t resampled = 0;         // latents, after it
    bool dense = false;                 // the step was made of dense products
    device::LatentSums codes;           // elementwise kinds: this rank's, by latent
    AtmReport atm;
};

// Before Device::prepare(): has a device with memory of its own hold at most so many of the `most_rows` of a
// batch (0: all), up to a multiple of range_rows. Returns Workbench::rows_at_once.
std::int64_t hold_rows(device::Device& device, std::int64_t micro_batch, std::int64_t most_rows);

// Collective: ranks that share memory share the parameters.
TrainedSae make_sae(device::Device& device, const Replicas& replicas, const SaeConfig& config,
                    std::string name, const device::Shape& shape);

// The kind's view of a step; `own` and `norms` are filled and must live as long.
sae::Moment moment_of(const Workbench& bench, const TrainedSae& sae, std::int64_t step,
                      std::vector<float>& own, std::vector<float>& norms);

// The kind's own parameters as they begin, on scaled rows x with sqrt(E|x - b_dec|^2) = `spread`.
void start_own(Workbench& bench, TrainedSae& sae, double spread);

// UsageError naming the folder config.init_from where what was saved there is of another shape or sort.
void check_init_from(const saelens::SavedSae& saved, const SaeConfig& config, const std::string& name,
                     const device::Shape& shape);

// Parameters from the folder config.init_from, for rows that are `scale` times the raw ones it was saved for.
// RunError where it cannot be read, UsageError as above.
void start_from_saved(Workbench& bench, TrainedSae& sae, double scale);

// z as it begins, where the optimiser averages: the parameters. After start_own(); nothing for Adam.
void start_average(Workbench& bench, TrainedSae& sae, const OptimizerConfig& optimizer);

// Ends a schedule-free training: the parameters become the average, which is what is used. Collective.
void take_average(Workbench& bench, TrainedSae& sae, const OptimizerConfig& optimizer);

// `step` counts from 0. RunError, naming the SAE, if the gradient is not finite.
StepReport train_step(Workbench& bench, TrainedSae& sae, const OptimizerConfig& optimizer,
                      const data::Batch& batch, std::int64_t step, double lr);

}  // namespace strata::train
