#pragma once
// Of all SAEs of a job, what is the most: what the memory that they share must hold.

#include <cstdint>

#include "device/device.h"
#include "suite/suite.h"

namespace strata::suite {

struct Most {
    std::int64_t width = 0, per_latent = 0, groups = 1;
    bool skip = false;
    double codes_of_row = 0;     // of all sets
    double selected_of_row = 0;  // of those, what selection kinds take
    double listed = 0;           // pairs of a range of rows, by lists of an elementwise kind
    bool windows = false;        // of which one set are the pairs around a threshold
    std::int64_t aux_k = 0;
    std::int64_t row_top = 0;  // of the codes that are the largest of a row; 0: none are
    std::int64_t dense = 0;    // arrays of pre-activations
    bool batch_rule = false;
};

// `rows` of a rank's batch whose pairs may be listed together.
Most most_of(const Job& job, std::int64_t rows);

// The most rows of a batch that a rank of so many has: lanes are not divided, and held-out batches are cut
// evenly.
std::int64_t rows_of_rank(const Config& config, int ranks);

// Of all tensors but the two matrices.
std::int64_t small_elements(const device::Shape& shape);

}  // namespace strata::suite
