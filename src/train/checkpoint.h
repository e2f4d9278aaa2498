#pragma once
// Resumable state: OUTPUT/checkpoints/step-N/, where N counts steps over all datasets of the run. Every rank
// writes its share of the latents (temporary name, sync, rename); rank 0 writes manifest.json last, which
// makes it complete. A folder without a manifest is no checkpoint. Tensors are read back from whatever number
// of ranks wrote them.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/stream.h"
#include "train/step.h"

namespace strata::train {

// Everything besides the SAEs' tensors that the rest of the run depends on.
struct Progress {
    std::int64_t job = 0;             // index of the dataset in training
    std::int64_t step = 0;            // steps done on it
    std::uint64_t metrics_bytes = 0;  // of metrics.jsonl at that moment
    data::InputStatistics statistics;
    std::vector<data::LaneCursor> cursors;  // all lanes
};

struct Checkpoint {
    std::filesystem::path folder;
    Progress progress;
    std::string fingerprint;  // of the configuration it was made under
};

// Collective; all ranks return or throw together. A failure (a full disk, say) removes the unfinished folder
// and leaves older checkpoints as they are. Afterwards only the newest `keep` complete ones remain,
// and nothing of incomplete ones.
void save_checkpoint(const std::filesystem::path& output, std::int64_t number, const std::string& fingerprint,
                     const Progress& progress, std::span<TrainedSae> saes, device::Device& device,
                     const Replicas& replicas, std::int64_t keep);

// The newest complete checkpoint of an output folder, if there is one. RunError if its manifest cannot be
// understood.
std::optional<Checkpoint> newest_checkpoint(const std::filesystem::path& output);

// Fills the SAEs (made by make_sae, same names and shapes) from a checkpoint. RunError names file and tensor:
// missing or truncated files, wrong shapes, wrong checksums.
void load_checkpoint(const Checkpoint& checkpoint, std::span<TrainedSae> saes, device::Device& device,
                     const Replicas& replicas);

}  // namespace strata::train
