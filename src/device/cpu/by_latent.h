#pragma once
// What sums by latent read: codes in the order of latents, and the rows they gather, cut into tiles.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/memory.h"

namespace strata::device {

// A matrix [rows, n] cut into tiles of a few columns, [tiles, rows, width], the last one padded with zeros: a
// tile stays in a core's L2 while all latents gather their rows from it.
struct TileView {
    float* data = nullptr;
    std::int64_t rows = 0, n = 0, width = 0;

    // With no memory yet. Memory is 64-byte aligned.
    static TileView of_shape(std::int64_t rows, std::int64_t n);
    std::size_t size() const { return static_cast<std::size_t>(count() * rows * width); }
    std::int64_t count() const { return (n + width - 1) / width; }
    std::int64_t valid(std::int64_t tile) const { return std::min(width, n - tile * width); }
    float* at(std::int64_t tile, std::int64_t row) const { return data + (tile * rows + row) * width; }
    void store(std::int64_t row, const float* values) const;
    void load(std::int64_t row, float* values) const;
};

struct Tiles : TileView {
    Array<float> own;

    void reset(std::int64_t rows_, std::int64_t n_);
};

// The codes of a set by latent: those of latent j are [begin[j], begin[j + 1]), their rows ascend.
struct ByLatent {
    std::vector<std::uint32_t> begin;  // [M + 1]
    Array<std::uint32_t> row;
    Array<float> value;     // gradient_scale * f
    Array<float> gradient;  // dL/df

    std::size_t size() const { return begin.empty() ? 0 : begin.back(); }
    void grow(std::size_t codes);
    std::size_t bytes() const;
};

}  // namespace strata::device
