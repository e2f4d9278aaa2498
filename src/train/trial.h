#pragma once
// Steps of a single SAE, to be timed: without a run, in the state of a late one.

#include "base/memory.h"
#include "train/step.h"

namespace strata::train {

// An SAE ready for its first step on batches of `batch_size` rows, all ranks together, which are `scale`
// times the raw ones; a GPU holds at most `micro_batch` of them at a time (0: all). Of config.init_from where
// it is given; else elementwise kinds begin with thresholds, or biases, at which about config.k pairs of a
// row of `batch` are active.
struct Trial {
    Replicas replicas;
    Reducer reducer;
    std::unique_ptr<DeviceSums> sums;
    TrainedSae sae;
    Workbench bench;

    // Collective.
    Trial(device::Device& device, Communicator& comm, const SaeConfig& config, const device::Shape& shape,
          std::int64_t batch_size, const data::Batch& batch, double scale = 1, std::int64_t micro_batch = 0);
};

// Batches of a dataset as training gets them, and what one takes to be read and shuffled.
struct TrialRows {
    std::vector<Array<float>> x, targets;
    double read_seconds = 0;  // of one core, a batch

    data::Batch batch(std::size_t i) const;
    std::int64_t n = 0;
};
TrialRows trial_rows(const data::Dataset& dataset, const Config& config, std::int64_t batch_size);

// Batches in host memory, in turn for ever. Where a device fetches its rows each is on its way during the
// step before, as a stream's are. They must stay as long.
class TrialBatches {
  public:
    TrialBatches(device::Device& device, std::vector<data::Batch> batches);
    // Until the next call.
    data::Batch next();

  private:
    void send(std::size_t i) { parcels_[i]->send(batches_[i].rows, 1); }
    std::vector<data::Batch> batches_;
    std::vector<std::unique_ptr<device::Parcel>>
        parcels_;  // of each; none where the device reads host memory
    std::size_t at_ = 0;
};

// The median of the seconds of a step, steps being made for `seconds`; at least three, after as many as the
// encoder and its guesses take to settle.
double trial_step(const TrialRows& rows, const SaeConfig& sae, const Config& config, int threads,
                  double seconds);

// What a verb that streams its operands could reach; bytes a second, read and written.
void copy(const Array<float>& from, Array<float>& to, int threads);
double copy_rate(int threads);

}  // namespace strata::train
