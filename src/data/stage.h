#pragma once
// Copies of activation files on a disk of the host.

#include <filesystem>

#include "data/dataset.h"

namespace strata::data {

// Copies every file that the dataset or its target reads into `folder`, each under its whole path there, so
// that files of one name in two folders stay apart. A file whose copy has its size and time is left alone, so
// copying goes on where it was stopped. Call it on one rank of a host. Throws Ended with the status of a stop
// if one is requested between two files; RunError naming the file: unreadable, folder full or not to be
// written to, rows mapped from other files.
void stage(const Dataset& dataset, const std::filesystem::path& folder);

// The same dataset, read from the copies.
Dataset staged(const Dataset& dataset, const std::filesystem::path& folder);

}  // namespace strata::data
