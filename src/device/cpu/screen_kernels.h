#pragma once
// The inner loops of the screened encoder (docs/screening.md), one set per instruction set, chosen at run
// time. What they compute differs from set to set; what is selected by it does not.

#include <cstdint>
#include <vector>

namespace strata::device {

// The integers i of one row or latent, value (i - u) scale with the dither u; sums over its dimensions.
struct Quantized {
    float scale;     // s
    float square;    // |x / s|^2
    float residual;  // |i - x / s|^2
    float with;      // sum of i times the dither of the other side
    float sum;       // sum of i
};

// A tile of latents against the row tiles of a block. A pair passes where
//   i.p + row_add + latent_add + latent_bias row_inverse - latent_inverse row_limit >= 0     (or is NaN),
// i.p the integer product with latents stored as p + offset.
struct ScreenTile {
    const std::uint8_t* rows;     // [row_tiles, steps, tile_rows, 4]
    const std::uint8_t* latents;  // [steps, tile_columns, 4]
    std::int64_t row_tiles, steps;
    const float *row_add, *row_inverse, *row_limit;          // [row_tiles * tile_rows]
    const float *latent_add, *latent_bias, *latent_inverse;  // [tile_columns]
    std::uint32_t first_latent;
};

struct ScreenKernels {
    const char* target;
    // Rows and columns of a tile; the largest integer of either side; what is added to those of latents.
    std::int64_t tile_rows, tile_columns;
    int largest, offset;

    // out = Q (sign (x - mean)), Q orthogonal: every dimension mixed with others in each of the groups of
    // equal index modulo 16. `padded` is n rounded up to 16; `mean` and `sign` are [padded], zeros after n.
    void (*rotate)(const float* x, const float* mean, const float* sign, std::int64_t n, std::int64_t padded,
                   float* out);
    // Integers of x [padded]; with `latent` plus offset. `dither` is taken into them, `other` is the other
    // side's.
    Quantized (*quantize)(const float* x, const float* dither, const float* other, std::int64_t padded,
                          bool latent, std::uint8_t* out);
    // Appends row (from 0), latent and the left side of the test of all pairs that pass; returns how many.
    // The outputs need room for all pairs of the tiles.
    std::int64_t (*screen)(const ScreenTile& tile, std::uint32_t* row, std::uint32_t* latent, float* value);
};

// The best set this CPU has, or null: below AVX2 the float32 product is as fast.
const ScreenKernels* screen_kernels();

// All sets this CPU has, for tests and benchmarks.
std::vector<ScreenKernels> all_screen_kernels();

}  // namespace strata::device
