#pragma once
// Resumable state of a job: FOLDER/step-N/, N steps of the job. Every rank writes its share of the latents
// (temporary name, sync, rename); rank 0 writes manifest.json last, which makes it complete. A folder without
// a manifest is no checkpoint. Tensors are read back from whatever number of ranks wrote them.
//
// Training goes on while a checkpoint is written: what is to be saved is copied between two steps, and a
// thread of every rank writes the copy.

#include <atomic>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/memory.h"
#include "comm/communicator.h"
#include "data/stream.h"
#include "formats/safetensors.h"
#include "train/step.h"

namespace strata::train {

// Everything besides the SAEs' tensors that the rest of the job depends on.
struct Progress {
    std::int64_t step = 0;  // steps done
    data::InputStatistics statistics;
    std::vector<data::LaneCursor> cursors;  // all lanes
};

struct Checkpoint {
    std::filesystem::path folder;
    Progress progress;
};

// Memory for one more copy of the parameters and moments that this rank saves is taken with the first
// checkpoint, and kept.
class CheckpointWriter {
  public:
    // The newest `keep` complete checkpoints of `folder` remain, and nothing of incomplete ones.
    CheckpointWriter(std::filesystem::path folder, device::Device& device, const Replicas& replicas,
                     std::int64_t keep);
    ~CheckpointWriter();  // one that is not complete is given up

    // Copies what is to be saved and begins to write it; the one before must be complete. Collective; all
    // ranks return or throw together, as in finish().
    void begin(const Progress& progress, std::span<TrainedSae> saes);
    // Whether a checkpoint was begun that is not complete yet.
    bool pending() const { return thread_.joinable(); }
    // Whether this rank's part of it is on the disk, or has failed.
    bool written() const { return written_; }
    // Waits for the parts of all ranks and makes the checkpoint complete. A failure (a full disk, say)
    // removes the unfinished folder and leaves older checkpoints as they are.
    void finish();

  private:
    struct StagedFile {
        std::filesystem::path path;
        Array<std::byte> bytes;                    // all of it
        std::vector<safetensors::Tensor> tensors;  // in `bytes`
    };
    void give_up();

    std::filesystem::path folder_;
    device::Device& device_;
    const Replicas& replicas_;
    std::int64_t keep_;
    std::filesystem::path unfinished_;  // step-N
    std::string manifest_;              // but for what the parts of the ranks say; rank 0
    std::vector<std::uint64_t> slices_;
    std::vector<StagedFile> files_;
    std::vector<std::uint64_t> checksums_;  // of files_
    std::thread thread_;
    std::atomic<bool> written_ = false;
    std::exception_ptr error_;
};

// The newest complete checkpoint of a job's folder, if there is one. RunError if its manifest cannot be
// understood.
std::optional<Checkpoint> newest_checkpoint(const std::filesystem::path& folder);

// Fills the SAEs (made by make_sae, same names and shapes) from a checkpoint. RunError names file and tensor:
// missing or truncated files, wrong shapes, wrong checksums.
void load_checkpoint(const Checkpoint& checkpoint, std::span<TrainedSae> saes, device::Device& device,
                     const Replicas& replicas);

}  // namespace strata::train
