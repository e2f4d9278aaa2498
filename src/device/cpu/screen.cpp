#include "device/cpu/screen.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/random.h"
#include "device/cpu/kernels.h"

namespace strata::device {
namespace {

// P(error > bound) <= 1e-22 for a pair: sqrt(ln(1e22) / 6), rounded up.
constexpr double deviations = 2.9057;
constexpr std::int64_t mean_rows = 256;

// What the bounds of rows and latents have in common.
struct Error {
    double dims, largest, log_group;
    double tangent = 1;                            // S of docs/screening.md
    double row_residual = 0, latent_residual = 0;  // certain: largest |i - x/s|
    double widest_latent = 0;                      // largest |w/s|
    double fixed = 0;                              // of the test's own arithmetic

    double root(float square) const { return std::sqrt(square * (1 + (dims / 8 + 16) * unit)); }
    // Half of it for either side, since a product of norms is at most half the sum of their squares.
    double rotation(double root) const { return (2 * log_group + 12) * unit * root * root; }
    // Of rounding while integers are made, and of their sum with the dither.
    double dithering(double root) const {
        return (4 * (largest + 1) * std::sqrt(dims) * unit + (dims / 8 + 8) * unit * std::sqrt(dims) / 2) *
               (root + std::sqrt(dims) / 2);
    }
    double by_tangent(double square) const {
        return deviations * (square + tangent / 2) / (2 * std::sqrt(tangent));
    }
};

// What is not finite would make NaN of the zeros of padding, and NaN passes the test.
float bounded(double value) {
    constexpr double most = std::numeric_limits<float>::max();
    return static_cast<float>(std::clamp(value, -most, most));
}

// The mean of some rows: any vector is right, and one near their mean makes what is left small.
void take_mean(Screen& s, const float* x, std::int64_t count) {
    const std::int64_t used = std::min(count, mean_rows);
    std::fill(s.mean.begin(), s.mean.end(), 0.0F);
    for (std::int64_t i = 0; i < used; ++i)
        kernels().add(x + (i * count / used) * s.n, 1.0F / static_cast<float>(used), s.n, s.mean.data());
}

constexpr std::size_t line = 64;  // of a cache

std::size_t whole_lines(std::size_t bytes) {
    return (bytes + line - 1) / line * line;
}

std::size_t padded_to(std::int64_t count, std::int64_t of_tile) {
    return static_cast<std::size_t>((count + of_tile - 1) / of_tile * of_tile);
}

std::int64_t padded_length(std::int64_t n) {
    return (n + 15) / 16 * 16;
}

std::size_t integer_bytes(std::size_t vectors, std::int64_t padded) {
    return line + whole_lines(vectors * sizeof(Quantized)) + whole_lines(vectors * sizeof(std::uint32_t)) +
           vectors * static_cast<std::size_t>(padded);
}

Integers integers_in(std::byte* bytes, std::size_t vectors) {
    static_assert(sizeof(Integers::Header) <= line);
    Integers in;
    in.header = reinterpret_cast<Integers::Header*>(bytes);
    bytes += line;
    in.quantized = reinterpret_cast<Quantized*>(bytes);
    bytes += whole_lines(vectors * sizeof(Quantized));
    in.seal = reinterpret_cast<std::uint32_t*>(bytes);
    bytes += whole_lines(vectors * sizeof(std::uint32_t));
    in.packed = reinterpret_cast<std::uint8_t*>(bytes);
    return in;
}

// The side's own memory for so many vectors.
void own_integers(ScreenSide& side, std::size_t vectors, std::int64_t padded) {
    const std::size_t bytes = integer_bytes(vectors, padded);
    if (side.own.size() < bytes) side.own.reset(bytes);
    side.integers = integers_in(side.own.data(), vectors);
}

// A step of the optimiser changes nearly every element.
std::uint32_t seal_of(const float* vector, std::int64_t n) {
    return std::bit_cast<std::uint32_t>(vector[0]) ^
           std::rotl(std::bit_cast<std::uint32_t>(vector[n - 1]), 1) ^
           std::rotl(std::bit_cast<std::uint32_t>(vector[n / 2]), 2);
}

// Integers of one vector, into its place.
void quantize(Screen& s, const Integers& to, std::int64_t at, const float* from, bool latent) {
    const std::int64_t of_tile = latent ? s.kernels->tile_columns : s.kernels->tile_rows;
    ScreenScratch& mine = s.scratch[static_cast<std::size_t>(omp_get_thread_num())];
    s.kernels->rotate(from, latent ? s.zeros.data() : s.mean.data(), s.sign.data(), s.n, s.padded,
                      mine.rotated.data());
    const auto& own = latent ? s.latent_dither : s.row_dither;
    const auto& other = latent ? s.row_dither : s.latent_dither;
    to.quantized[at] = s.kernels->quantize(mine.rotated.data(), own.data(), other.data(), s.padded, latent,
                                           mine.integers.data());
    std::uint8_t* out = to.packed + at / of_tile * of_tile * s.padded + at % of_tile * 4;
    for (std::int64_t k = 0; k < s.padded / 4; ++k)
        std::memcpy(out + k * of_tile * 4, mine.integers.data() + k * 4, 4);
}

void make_rows(Screen& s, const Rows& rows, std::int64_t count, int threads) {
    const std::size_t vectors = padded_to(count, s.kernels->tile_rows);
    own_integers(s.rows, vectors, s.padded);
    take_mean(s, rows.x.data(), count);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t b = 0; b < static_cast<std::int64_t>(vectors); ++b)
        if (b < count)
            quantize(s, s.rows.integers, b, rows.x.data() + b * s.n, false);
        else
            s.rows.integers.quantized[b] = {};
    s.row_number = rows.number;
}

// The shared ones if they are made; else those of this rank's own, made now.
void take_latents(Screen& s, const Tensors& sae, int threads) {
    if (sae.encoder.size > 0) {
        s.latents.integers = shared_latents(s, sae);
        if (s.latents.integers.header->made != 0) {
            if (s.latents.own.size() >= sae.encoder.size) s.latents.own = {};  // some latents' are kept
            return;
        }
    }
    own_integers(s.latents, padded_to(sae.width, s.kernels->tile_columns), s.padded);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t j = 0; j < sae.width; ++j)
        make_integers(s, s.latents.integers, j, sae.w_enc.data() + j * sae.n);
}

double mean_square(const Quantized* all, std::int64_t count) {
    double sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += all[i].square;
    return sum / static_cast<double>(std::max<std::int64_t>(count, 1));
}

}  // namespace

Screen make_screen(bool certain, const ScreenKernels* kernels) {
    Screen screen{};
    screen.kernels = kernels;
    screen.certain = certain;
    return screen;
}

void start_screen(Screen& s, std::int64_t n, int threads) {
    if (s.n == n && std::ssize(s.scratch) >= threads) return;
    s.row_number = 0;
    s.n = n;
    s.padded = padded_length(n);
    const auto size = static_cast<std::size_t>(s.padded);
    s.scratch.resize(static_cast<std::size_t>(threads));
    for (ScreenScratch& one : s.scratch) {
        one.rotated.reset(size);
        one.integers.reset(size);
    }
    for (auto* a : {&s.sign, &s.row_dither, &s.latent_dither, &s.mean, &s.zeros, &s.shift}) a->reset(size);
    Random random(0, Purpose::dither);
    double product = 0;
    for (std::size_t i = 0; i < size; ++i) {
        s.sign[i] = (random.bits() & 1U) != 0 ? 1.0F : -1.0F;
        if (s.certain) continue;
        s.row_dither[i] = random.uniform() - 0.5F + 0x1p-25F;
        s.latent_dither[i] = random.uniform() - 0.5F + 0x1p-25F;
        product += static_cast<double>(s.row_dither[i]) * s.latent_dither[i];
    }
    s.dither_product = static_cast<float>(product);
}

std::size_t latent_bytes(const Screen& s, const Shape& shape) {
    return integer_bytes(padded_to(shape.width, s.kernels->tile_columns), padded_length(shape.n));
}

Integers shared_latents(const Screen& s, const Tensors& sae) {
    STRATA_ASSERT(sae.encoder.size == latent_bytes(s, sae));
    return integers_in(sae.encoder.data(), padded_to(sae.width, s.kernels->tile_columns));
}

void make_integers(Screen& s, const Integers& to, std::int64_t j, const float* weights) {
    quantize(s, to, j, weights, true);
    to.seal[j] = seal_of(weights, s.n);
}

bool prepare_screen(Screen& s, const Tensors& sae, const Rows& rows, std::span<const float> xc_norm,
                    std::span<const float> at_least, bool by_row, int threads) {
    const std::int64_t count = std::ssize(xc_norm);
    for (const float norm : xc_norm)
        if (!(norm < 1e18F)) return false;  // its square is a number
    start_screen(s, sae.n, threads);
    if (rows.number == 0 || rows.number != s.row_number) make_rows(s, rows, count, threads);
    take_latents(s, sae, threads);
    const Quantized* const of_rows = s.rows.integers.quantized;
    const Quantized* const of_latents = s.latents.integers.quantized;
    std::copy_n(s.mean.data(), s.n, s.shift.data());
    if (!sae.transcoder) kernels().add(sae.b_dec.data(), -1, s.n, s.shift.data());
    const float shift_norm = std::sqrt(kernels().dot(s.shift.data(), s.shift.data(), s.n));

    Error error{.dims = static_cast<double>(s.padded),
                .largest = static_cast<double>(s.kernels->largest),
                .log_group = std::log2(std::bit_floor(static_cast<std::uint64_t>(s.padded / 16)))};
    const double half = std::sqrt(error.dims) / 2;
    const auto grown = [&](double square) {  // |w/s + v|^2 at the most
        const double root = std::sqrt(square) + half;
        return root * root;
    };
    error.tangent = mean_square(of_rows, count) + grown(mean_square(of_latents, sae.width));
    error.fixed = 18 * unit * (s.kernels->largest + s.kernels->offset) * error.largest * error.dims;
    for (std::int64_t j = 0; j < sae.width; ++j) {
        const Quantized& q = of_latents[j];
        error.latent_residual = std::max(error.latent_residual, error.root(q.residual));
        error.widest_latent = std::max(error.widest_latent, error.root(q.square));
    }
    for (std::int64_t b = 0; b < count; ++b)
        error.row_residual = std::max(error.row_residual, error.root(of_rows[b].residual));

    // Of a dot product of 32 chains and of the subtraction before it, relative to the norms.
    const double dot_rounding = (static_cast<double>(sae.n) / 32 + 9) * unit;
    const float never = -std::numeric_limits<float>::infinity();
    const std::size_t row_vectors = padded_to(count, s.kernels->tile_rows);
    for (auto* a : {&s.row_limit, &s.row_bound, &s.rows.add, &s.rows.inverse}) a->assign(row_vectors, 0.0F);
    for (std::int64_t b = 0; b < std::ssize(s.rows.add); ++b) {
        const auto i = static_cast<std::size_t>(b);
        const Quantized& q = of_rows[b];
        s.rows.add[i] = never;
        if (b >= count) continue;
        const double root = error.root(q.square);
        const double bound =
            s.certain ? (root + error.row_residual) * error.latent_residual : error.by_tangent(root * root);
        const double scored = dot_rounding * xc_norm[i] / q.scale * error.widest_latent;
        s.rows.inverse[i] = 1.0F / q.scale;
        const double all = bound + error.rotation(root) + error.dithering(root) + scored;
        s.row_bound[i] = static_cast<float>(all);
        s.rows.add[i] = static_cast<float>(all - static_cast<double>(s.kernels->offset) * q.sum - q.with);
    }

    const std::size_t latent_vectors = padded_to(sae.width, s.kernels->tile_columns);
    for (auto* a : {&s.latent_bias, &s.latents.add, &s.latents.inverse, &s.latent_bound, &s.latent_rounding})
        a->assign(latent_vectors, 0.0F);
    bool finite = true, present = true;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(&& : finite, present)
    for (std::int64_t j = 0; j < std::ssize(s.latents.add); ++j) {
        const auto i = static_cast<std::size_t>(j);
        s.latents.add[i] = never;
        if (j >= sae.width) continue;
        const Quantized& q = of_latents[j];
        present = present && s.latents.integers.seal[j] == seal_of(sae.w_enc.data() + j * sae.n, sae.n);
        const double root = error.root(q.square);
        const double bound =
            s.certain ? root * error.row_residual : error.by_tangent((root + half) * (root + half));
        const double all = bound + error.rotation(root) + error.dithering(root) + error.fixed;
        s.latents.add[i] = static_cast<float>(all + s.dither_product - q.with);
        s.latents.inverse[i] = 1.0F / q.scale;
        const float of_shift = kernels().dot(s.shift.data(), sae.w_enc.data() + j * sae.n, sae.n);
        const float bias = sae.b_enc.data()[j];
        const float limit = by_row ? 0.0F : at_least.size() > 1 ? at_least[i] : at_least.front();
        // A latent may have an infinite threshold, which nothing passes.
        const float size = std::isfinite(limit) ? std::abs(limit) : 0.0F;
        const double rounding = dot_rounding * shift_norm * root * q.scale +
                                8 * unit * (std::abs(of_shift) + std::abs(bias) + size);
        s.latent_bias[i] = bounded((double{of_shift} + bias - limit + rounding) / q.scale);
        s.latent_bound[i] = static_cast<float>(all) * q.scale;
        s.latent_rounding[i] = static_cast<float>(rounding);
        finite = finite && q.scale < 1e18F && std::isfinite(of_shift + bias) && std::isfinite(q.square);
    }
    STRATA_ASSERT(present);  // else w_enc was changed without encoder_changed()
    return finite;
}

// The test's rounding counts against the limit.
void screen_limit(Screen& s, std::int64_t b, float limit) {
    const auto i = static_cast<std::size_t>(b);
    s.row_limit[i] = bounded(double{limit - 8 * unit * std::abs(limit)} * s.rows.inverse[i]);
}

std::size_t screen_bytes(const Screen& s) {
    std::size_t bytes = 0;
    for (const ScreenSide* side : {&s.rows, &s.latents})
        bytes += side->own.size() + (side->add.capacity() + side->inverse.capacity()) * sizeof(float);
    return bytes +
           (s.row_limit.capacity() + s.latent_bias.capacity() + s.row_bound.capacity()) * sizeof(float);
}

std::int64_t screen_tile(const Screen& s, std::int64_t first_row_tile, std::int64_t row_tiles,
                         std::int64_t latent_tile, std::uint32_t* row, std::uint32_t* latent, float* value) {
    const std::int64_t first_row = first_row_tile * s.kernels->tile_rows;
    const std::int64_t first_latent = latent_tile * s.kernels->tile_columns;
    return s.kernels->screen({.rows = s.rows.integers.packed + first_row * s.padded,
                              .latents = s.latents.integers.packed + first_latent * s.padded,
                              .row_tiles = row_tiles,
                              .steps = s.padded / 4,
                              .row_add = s.rows.add.data() + first_row,
                              .row_inverse = s.rows.inverse.data() + first_row,
                              .row_limit = s.row_limit.data() + first_row,
                              .latent_add = s.latents.add.data() + first_latent,
                              .latent_bias = s.latent_bias.data() + first_latent,
                              .latent_inverse = s.latents.inverse.data() + first_latent,
                              .first_latent = static_cast<std::uint32_t>(first_latent)},
                             row, latent, value);
}

}  // namespace strata::device
