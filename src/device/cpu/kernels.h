#pragma once
// The inner loops of the CPU device, one set per instruction set, chosen at run time (Highway). Every set
// gives the same bits where it fuses multiply and add (AVX2 and up): sums of products run in 32 chains,
// folded by halves, whatever the vector length.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "device/element.h"

namespace strata::device {

// Some rows of a tile [rows, width] of columns, and what they are weighted with.
struct TileSource {
    const float* tile;
    const std::uint32_t* row;
    const float* weight;
    std::int64_t count;
};

// x . x, x . x_hat and x_hat . x_hat.
struct Alignment {
    float xx, xh, hh;
};

struct Kernels {
    const char* target;

    // out = x - b; returns |out|^2.
    float (*subtract)(const float* x, const float* b, std::int64_t n, float* out);

    float (*dot)(const float* a, const float* b, std::int64_t n);
    // Products of x = xc + b and x_hat = x + residual.
    Alignment (*align)(const float* xc, const float* b, const float* residual, std::int64_t n);
    // out[i] = x . base[index[i]] for rows of n.
    void (*dots)(const float* x, const float* base, const std::uint32_t* index, std::int64_t count,
                 std::int64_t n, float* out);
    // out[i] = a[a_index[i]] . b[b_index[i]] for rows of n.
    void (*pair_dots)(const float* a, const std::uint32_t* a_index, const float* b,
                      const std::uint32_t* b_index, std::int64_t count, std::int64_t n, float* out);

    // inout += s * a
    void (*add)(const float* a, float s, std::int64_t n, float* inout);
    // inout += sum_i weight[i] * base[index[i]], in the order of i.
    void (*add_rows)(const float* base, const std::uint32_t* index, const float* weight, std::int64_t count,
                     std::int64_t n, float* inout);
    void (*multiply)(float s, std::int64_t n, float* inout);

    // out = sum of the sources' weighted rows - along * direction, `valid` of the `width` (16, 32 or 64)
    // columns, added to what is there with `keep`; `direction` may be null. Tiles are 64-byte aligned.
    // Returns |out|^2.
    float (*add_tiles)(const TileSource* sources, std::int64_t count, std::int64_t width, std::int64_t valid,
                       float along, const float* direction, bool keep, float* out);

    // Appends first_latent + j and z[j] + bias[j] for every j with z[j] + bias[j] >= limit; returns how many.
    // Both outputs need room for `count` elements.
    std::int64_t (*scan)(const float* z, const float* bias, std::int64_t count, float limit,
                         std::uint32_t first_latent, std::uint32_t* latent, float* value);

    // w, m (or z), v after one step of the optimiser on g.
    void (*optimize)(float* w, float* m, float* v, const float* g, std::int64_t n, const Rates& rates);
};

// The best set this CPU has.
const Kernels& kernels();

// From now on this CPU counts as one with AVX2 and no more; to be called before any kernel is used.
void use_avx2_only();

// All sets this CPU has, for tests and benchmarks.
std::vector<Kernels> all_kernels();

}  // namespace strata::device
