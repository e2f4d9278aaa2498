#pragma once
// The scan of a tile of the encoder's product.

#include "device/cuda/tables.h"

namespace strata::device::cuda {

// A tile, and what its scan needs beside it.
struct Scan {
    const float* tile;  // [rows, stride]
    std::int64_t rows, stride, columns, first_latent;
    const float* bias;  // of the tile's first latent on, as are the next two
    const ErrorOfLatent* latent_errors;
    const float* at_least;         // null: any positive
    bool one_limit;                // at_least is one number
    const ErrorOfRow* row_errors;  // of the tile's first row on, as is the next
    const float* row_limit;        // null: 0
    std::uint32_t* list_latent;    // [rows, room]
    float* list_value;             // the most that the pre-activation may be
    std::uint32_t* used;
    std::int64_t room;
};

// Queues it: what may pass is appended to the rows' lists, latents ascending, and counted beyond their room.
void scan_tile(const Scan& scan, cudaStream_t stream);

}  // namespace strata::device::cuda
