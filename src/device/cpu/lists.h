#pragma once
// What the CPU device holds of a batch: candidates and codes, and each thread's own memory. All of it is kept
// from step to step, and grows.

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/memory.h"
#include "device/cpu/by_latent.h"

namespace strata::device {

template <typename T>
void ensure(std::vector<T>& v, std::int64_t size) {
    if (static_cast<std::int64_t>(v.size()) < size)
        v.resize(static_cast<std::size_t>(std::max(size, 2 * std::ssize(v))));
}

// Pairs (row, latent) with a value, by row; the latents of a row ascend.
struct PairsByRow {
    std::vector<std::uint32_t> begin;  // [rows + 1]
    Array<std::uint32_t> latent;
    Array<float> value;
    std::int64_t size() const { return begin.empty() ? 0 : begin.back(); }
};

// A code set: the codes by row, their gradients, the same by latent, and what is left to explain.
struct CodeTable {
    PairsByRow pairs;
    Array<float> gradient;     // dL/df, in the order of pairs
    float gradient_scale = 0;  // dL/df = gradient_scale * R . d
    ByLatent by_latent;
    // R^(g) by group, [B, n] each: the sum of the residuals of all prefixes that hold the group; the last is
    // x_hat - y.
    std::vector<Tiles> residual;
};

// The candidates of a block of rows, by row; kept from step to step.
struct RowBlock {
    std::vector<std::uint32_t> latent;
    std::vector<float> value;
    std::vector<std::uint32_t> count;  // [rows of the block + 1]
    std::int64_t found = 0;
};

// Pairs of a block of rows in the order found.
struct PairList {
    std::vector<std::uint32_t> row, latent;
    std::vector<float> value;
    void ensure(std::int64_t size) {
        device::ensure(row, size);
        device::ensure(latent, size);
        device::ensure(value, size);
    }
    std::size_t bytes() const {
        return (row.capacity() + latent.capacity() + value.capacity()) * sizeof(float);
    }
};

// The k-th largest of values that come one by one, to a sixteenth of a power of two: counts of the values on
// and above a rung that rises as soon as k of them stand higher.
struct Ladder {
    static constexpr int shift = 19;  // keeps four bits of the mantissa
    static constexpr std::int32_t rungs = 128;
    std::int32_t lowest = -1, rung = 0;
    std::int64_t above = 0;
    std::array<std::uint32_t, rungs> counts{};

    bool begun() const { return lowest >= 0; }
    // Most rungs lie below `value`; what is beyond the last counts there.
    void begin(float value) { lowest = std::max(0, bits(value) - 3 * rungs / 4); }
    void add(float value, std::int64_t k) {
        const std::int32_t at = std::clamp(bits(value) - lowest, 0, rungs - 1);
        if (at < rung) return;
        ++counts[static_cast<std::size_t>(at)];
        ++above;
        while (rung + 1 < rungs && above - counts[static_cast<std::size_t>(rung)] >= k)
            above -= counts[static_cast<std::size_t>(rung++)];
    }
    // At least k values are not below it.
    float edge() const {
        return rung == 0 ? -std::numeric_limits<float>::infinity()
                         : std::bit_cast<float>(static_cast<std::uint32_t>(lowest + rung) << shift);
    }
    static std::int32_t bits(float value) {
        return static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(std::max(value, 0.0F)) >> shift);
    }
};

// A thread's own memory.
struct Scratch {
    Array<float> product;                    // a block of the product
    Array<float> dense;                      // a tile of dense()
    PairList found, kept;                    // of a block of columns; of all before it
    std::vector<float> row;                  // [n]
    std::vector<std::uint32_t> order, next;  // sorting
    std::vector<std::uint32_t> latent;       // [rows, capacity] lists of screen_row_top
    std::vector<float> value;
    std::vector<std::int64_t> used, seen;
    std::vector<float> limit, open_limit;
    std::vector<Ladder> ladders;
    std::vector<float> selected;
};

// Of dense(), for a block of rows.
struct DenseScratch {
    Array<float> z, code, gate;          // [rows, M]
    std::vector<Array<float>> residual;  // by group, [rows, n]
    Array<float> gate_residual;          // [rows, n]
    std::vector<double> sums;            // [dense_sums, M]
};

}  // namespace strata::device
