#pragma once
// What one rank writes of an SAE to a checkpoint: a file for each set of its tensors, those of a slice of the
// latents.

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/memory.h"
#include "device/device.h"
#include "formats/safetensors.h"
#include "train/step.h"

namespace strata::train {

inline constexpr std::array<const char*, 3> set_names = {"parameters", "first_moment", "second_moment"};

std::filesystem::path file_of(const std::filesystem::path& folder, const std::string& sae, std::size_t set,
                              int rank, int ranks);

// This rank's share of one set of tensors as a file: all of it in `bytes`, so that it goes to the disk in one
// piece.
void stage_share(const std::filesystem::path& path, TrainedSae& sae, std::size_t set, device::Device& device,
                 Slice slice, int rank, Array<std::byte>& bytes, std::vector<safetensors::Tensor>& tensors);

// Reads what another rank, or this one, staged. Of the matrices only the latents of `mine` are taken over.
// RunError names the file and what is wrong: a tensor is missing or of another shape, or the checksum of its
// values is not `expected`.
void read_share(const std::filesystem::path& path, TrainedSae& sae, std::size_t set, device::Device& device,
                Slice slice, int rank, Slice mine, std::uint32_t expected);

}  // namespace strata::train
