#pragma once
// What the CUDA device holds of a batch.

#include "device/cuda/runtime.h"
#include "device/device.h"

namespace strata::device::cuda {

// Pairs (row, latent) with a value, by row; the latents of a row ascend.
struct Pairs {
    DeviceArray<std::uint32_t> begin{"the pairs' rows"};  // [B + 1]
    DeviceArray<std::uint32_t> row{"the pairs' rows"}, latent{"the pairs' latents"};
    DeviceArray<float> value{"the pairs' values"};
    std::int64_t most = 0;  // as many as there are, or more: how many only the device knows

    void make_room(std::int64_t rows, std::int64_t pairs) {
        begin.grow(rows + 1);
        row.grow(pairs);
        latent.grow(pairs);
        value.grow(pairs);
    }
    std::size_t bytes() const { return begin.bytes() + row.bytes() + latent.bytes() + value.bytes(); }
};

// A code set: the codes by row, their gradients, the same by latent, and what is left to explain.
struct CodeTable {
    Pairs pairs;
    DeviceArray<float> gradient{"dL/df"};                           // in the order of pairs; 0 until decoded
    float gradient_scale = 0;                                       // dL/df = gradient_scale * R . d
    DeviceArray<std::uint32_t> latent_begin{"the codes' latents"};  // [M + 1]
    DeviceArray<std::uint32_t> row_of{
        "the codes by latent"};  // counted from the range's first; those of a latent ascend
    DeviceArray<float> value_of{"the codes by latent"};  // gradient_scale * f
    DeviceArray<float> gradient_of{"the codes by latent"};
    // [groups, rows held, n] R^(g): the sum of the residuals of all prefixes that hold the group.
    DeviceArray<float> residual{"the residuals"};

    std::size_t bytes() const {
        return pairs.bytes() + gradient.bytes() + latent_begin.bytes() + row_of.bytes() + value_of.bytes() +
               gradient_of.bytes() + residual.bytes();
    }
};

// For kernels.
struct PairsView {
    const std::uint32_t* begin;
    const std::uint32_t* row;
    const std::uint32_t* latent;
    const float* value;
};
inline PairsView view_of(const Pairs& p) {
    return {p.begin.data(), p.row.data(), p.latent.data(), p.value.data()};
}

inline constexpr int row_numbers = 7;  // of DecodeSums, which a row gives

// Cumulative ends of the latents' groups.
inline constexpr int most_groups = 32;
struct Groups {
    int count;
    std::int64_t end[most_groups];
};

// Rows of the encoder's product at a time, and latents: a tile of it stays in the L2 cache, 16 MiB of the 50
// of an H100.
struct ProductTile {
    std::int64_t rows = 1024, latents = 4096;
    std::int64_t row_chunks = 128;  // into which rows are cut to sort codes by latent
    // Of a block of rows of dense(): 256 MiB for each number.
    std::int64_t dense_pairs = std::int64_t{1} << 26;
    std::int64_t operand = std::int64_t{1} << 30;  // elements of a matrix of Product
};

// Pairs that there is room for on the lists of a tile's rows, 64 MiB.
inline constexpr std::int64_t most_listed = std::int64_t{1} << 23;

inline constexpr float unit = 0x1p-24F;  // of float32 rounding

// How far the product of a row and a latent may be from the value that counts, without the bias:
//   row.x |w_j| + row.y latent_j,   row = {|x - x~|, |x~|}, x~ what the product takes for x,
// latent_j = |w_j - w~_j| + what its sums may lose |w~_j|.
struct ErrorOfRow {
    float off, norm;
};
struct ErrorOfLatent {
    float norm, off;
};

// Masked pairs of the batch; no mask: `probability` is null.
struct DeviceMask {
    const float* draw;
    const float* probability;
    __device__ bool operator()(std::int64_t row, std::uint32_t latent) const {
        return probability != nullptr && draw[row] < probability[latent];
    }
};

}  // namespace strata::device::cuda
