#pragma once
// The screened encoder: an integer product with a bound on its error in place of the float32 one. It tells
// which pairs can pass a limit; their values are computed afterwards like those of the other path. The
// mathematics is in docs/screening.md.

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "base/memory.h"
#include "device/cpu/screen_kernels.h"
#include "device/device.h"

namespace strata::device {

inline constexpr float unit = 0x1p-24F;  // of float32 rounding

// Rows or latents as integers in tiles, padded to whole tiles, in bytes that are zeros at first. Those of an
// SAE's latents may lie beside its weights, for all ranks that share these (Tensors::encoder).
struct Integers {
    struct Header {
        std::atomic<std::uint32_t> wanted;  // how many ranks will screen the next batch
        std::atomic<std::uint32_t> made;    // 1: they are those of the present weights
    };
    Header* header = nullptr;
    Quantized* quantized = nullptr;
    std::uint32_t* seal = nullptr;   // bits of each vector, to know it by
    std::uint8_t* packed = nullptr;  // [tiles, steps, of a tile, 4]
};

struct ScreenSide {
    Array<std::byte> own;  // of `integers` that lie nowhere else
    Integers integers;
    std::vector<float> add;      // what the pair test adds, in units of the two scales
    std::vector<float> inverse;  // 1 / scale
};

// A thread's own memory: one vector rotated, and its integers.
struct ScreenScratch {
    Array<float> rotated;
    Array<std::uint8_t> integers;
};

struct Screen {
    const ScreenKernels* kernels;  // null: this CPU has none
    bool certain;                  // the Cauchy-Schwarz bound, without dither

    std::int64_t n = 0, padded = 0;  // input width; rounded up to 16
    Array<float> sign, row_dither, latent_dither, mean, zeros;
    Array<float> shift;            // mean - b_dec
    std::uint64_t row_number = 0;  // of the rows that `rows` holds
    float dither_product = 0;

    ScreenSide rows, latents;
    std::vector<ScreenScratch> scratch;  // by thread
    std::vector<float> row_limit;        // limit / scale, of screens with a limit by row
    std::vector<float> latent_bias;      // (pre-activation of the mean - limit) / scale
    std::vector<float> row_bound;        // in units of the two scales
    // Of latents: the bound times the scale, and the rounding of the test.
    std::vector<float> latent_bound, latent_rounding;
};

// `certain` or dithered. No memory is taken before the first use.
Screen make_screen(bool certain, const ScreenKernels* kernels);

// Integers of the latents of such an SAE, and where they lie in sae.encoder, which is not empty.
std::size_t latent_bytes(const Screen& screen, const Shape& shape);
Integers shared_latents(const Screen& screen, const Tensors& sae);
// Makes those of latent j anew from its weights. Threads may make several at a time, after start_screen().
void make_integers(Screen& screen, const Integers& to, std::int64_t j, const float* weights);
void start_screen(Screen& screen, std::int64_t n, int threads);

// All rows against all latents, for limits at_least_j (one, or [M]; by row if `by_row`, then zero here);
// xc_norm are the norms of what the encoder sees of the rows. Integers of rows are those of x itself, b_dec
// aside, so that all SAEs of a batch share them; those of latents are sae.encoder's if they are made. False,
// with nothing usable, where a number is not finite.
bool prepare_screen(Screen& screen, const Tensors& sae, const Rows& rows, std::span<const float> xc_norm,
                    std::span<const float> at_least, bool by_row, int threads);

// Appends the pairs of the latents of one tile and the rows of `row_tiles` tiles that may pass: rows counted
// from the first of these, latents, and how far the test was passed.
std::int64_t screen_tile(const Screen& screen, std::int64_t first_row_tile, std::int64_t row_tiles,
                         std::int64_t latent_tile, std::uint32_t* row, std::uint32_t* latent, float* value);

// The largest that the pre-activation of a pair may be, of how far it passed the test of its row's limit.
inline float screen_most(const Screen& s, std::int64_t b, std::uint32_t latent, float passed, float limit) {
    return passed * s.rows.integers.quantized[b].scale * s.latents.integers.quantized[latent].scale +
           limit * (1 + 16 * unit);
}
// It is at most this far below screen_most() of a limit >= 0 up to this one.
inline float screen_width(const Screen& s, std::int64_t b, std::uint32_t latent, float limit) {
    const float bounds =
        s.row_bound[static_cast<std::size_t>(b)] * s.latents.integers.quantized[latent].scale +
        s.latent_bound[latent];
    return 2.001F *
           (s.rows.integers.quantized[b].scale * bounds + s.latent_rounding[latent] + 16 * unit * limit);
}
// The limit of row b, for later tiles.
void screen_limit(Screen& screen, std::int64_t b, float limit);

std::size_t screen_bytes(const Screen& screen);

}  // namespace strata::device
