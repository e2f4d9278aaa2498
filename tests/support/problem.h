#pragma once
// Batches and parameters for tests: pure functions of a seed, with the awkward cases by name, and the way
// from host vectors to a device and back.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "device/device.h"
#include "support/reference.h"

namespace strata::test {

enum class Awkward {
    none,
    zero_rows,           // every third row is zero
    equal_rows,          // rows repeat with period 3
    equal_latents,       // latents repeat with period 5, encoder and decoder
    few_positive,        // biases leave few positive pre-activations
    none_positive,       // and these none
    huge,                // everything that has the unit of x, times 1e6
    tiny,                // times 1e-6
    outliers,            // every fifth row ten times as long
    large_biases,        // encoder biases near 1, products near 1e-4: many pre-activations share a float
    one_row_many_times,  // all rows equal
};

inline const char* name_of(Awkward kind) {
    constexpr const char* names[] = {
        "none", "zero_rows", "equal_rows", "equal_latents", "few_positive",      "none_positive",
        "huge", "tiny",      "outliers",   "large_biases",  "one_row_many_times"};
    return names[static_cast<int>(kind)];
}

inline void PrintTo(Awkward kind, std::ostream* out) {
    *out << name_of(kind);
}

struct Problem {
    std::size_t rows = 0;
    reference::Sae<float> sae;
    std::vector<float> x;  // [rows, n]
};

// Unit decoder rows; encoder rows near them, so that there is something to learn; small biases.
inline Problem make_problem(std::size_t rows, std::size_t n, std::size_t width, Awkward kind = Awkward::none,
                            std::uint64_t seed = 1) {
    Random random(seed, Purpose::synthetic, rows * 1000003 + n * 1009 + width);
    Problem p;
    p.rows = rows;
    p.sae = reference::Sae<float>(n, width);
    const float shrink = 1.0F / std::sqrt(static_cast<float>(n));
    for (float& v : p.sae.w_dec) v = random.normal();
    for (std::size_t j = 0; j < width; ++j)
        if (n == 1) p.sae.w_dec[j] = p.sae.w_dec[j] < 0 ? -1.0F : 1.0F;
    reference::renormalise(p.sae);
    for (std::size_t i = 0; i < n * width; ++i)
        p.sae.w_enc[i] = p.sae.w_dec[i] + 0.3F * shrink * random.normal();
    for (float& v : p.sae.b_enc) v = 0.1F * random.normal();
    for (float& v : p.sae.b_dec) v = 0.5F * shrink * random.normal();
    p.x.resize(rows * n);
    for (float& v : p.x) v = shrink * random.normal();

    const auto row = [&](std::size_t b) { return std::span(p.x).subspan(b * n, n); };
    switch (kind) {
        case Awkward::none:
            break;
        case Awkward::zero_rows:
            for (std::size_t b = 0; b < rows; b += 3) std::ranges::fill(row(b), 0.0F);
            break;
        case Awkward::equal_rows:
            for (std::size_t b = 3; b < rows; ++b) std::ranges::copy(row(b % 3), row(b).begin());
            break;
        case Awkward::one_row_many_times:
            for (std::size_t b = 1; b < rows; ++b) std::ranges::copy(row(0), row(b).begin());
            break;
        case Awkward::equal_latents:
            for (std::size_t j = 5; j < width; ++j) {
                for (auto* w : {&p.sae.w_enc, &p.sae.w_dec})
                    std::copy_n(w->begin() + static_cast<std::ptrdiff_t>(j % 5 * n), n,
                                w->begin() + static_cast<std::ptrdiff_t>(j * n));
                p.sae.b_enc[j] = p.sae.b_enc[j % 5];
            }
            break;
        case Awkward::few_positive:
            for (float& v : p.sae.b_enc) v -= 1.2F;
            break;
        case Awkward::none_positive:
            for (float& v : p.sae.b_enc) v -= 1e3F;
            break;
        case Awkward::huge:
        case Awkward::tiny:
            for (auto* values : {&p.x, &p.sae.b_enc, &p.sae.b_dec})
                for (float& v : *values) v *= kind == Awkward::huge ? 1e6F : 1e-6F;
            break;
        case Awkward::outliers:
            for (std::size_t b = 0; b < rows; b += 5)
                for (float& v : row(b)) v *= 10;
            break;
        case Awkward::large_biases:
            for (float& v : p.x) v *= 1e-4F;
            for (float& v : p.sae.b_dec) v *= 1e-4F;
            for (float& v : p.sae.b_enc) v = 1;
            break;
    }
    return p;
}

inline void put(const std::vector<float>& from, const device::Memory<float>& to, device::Device& device) {
    device.upload(std::as_bytes(std::span(from)), to.data());
}

inline std::vector<float> get(const device::Memory<float>& from, device::Device& device) {
    std::vector<float> to(from.size);
    device.download(from.data(), std::as_writable_bytes(std::span(to)));
    return to;
}

// The shape of these tensors, an autoencoder with unit decoder rows and no prefixes.
inline device::Shape shape_of(const reference::Sae<float>& sae) {
    device::Shape shape;
    shape.n = static_cast<std::int64_t>(sae.n);
    shape.width = static_cast<std::int64_t>(sae.width);
    shape.per_latent = sae.width == 0 ? 0 : static_cast<std::int64_t>(sae.latent.size() / sae.width);
    shape.skip = !sae.skip.empty();
    return shape;
}

inline void put(const reference::Sae<float>& from, device::Tensors& to, device::Device& device) {
    put(from.w_enc, to.w_enc, device);
    put(from.w_dec, to.w_dec, device);
    put(from.b_enc, to.b_enc, device);
    put(from.b_dec, to.b_dec, device);
    put(from.latent, to.latent, device);
    put(from.skip, to.w_skip, device);
}

inline device::Tensors put(const reference::Sae<float>& from, device::Device& device,
                           const device::Shape& shape) {
    device::Tensors to = device::make_tensors(device, shape);
    put(from, to, device);
    return to;
}

inline device::Tensors put(const reference::Sae<float>& from, device::Device& device) {
    return put(from, device, shape_of(from));
}

inline reference::Sae<float> get(const device::Tensors& from, device::Device& device) {
    reference::Sae<float> to(static_cast<std::size_t>(from.n), static_cast<std::size_t>(from.width));
    to.w_enc = get(from.w_enc, device);
    to.w_dec = get(from.w_dec, device);
    to.b_enc = get(from.b_enc, device);
    to.b_dec = get(from.b_dec, device);
    to.latent = get(from.latent, device);
    to.skip = get(from.w_skip, device);
    return to;
}

// The same limit for all latents.
inline bool screen_above(device::Device& device, const device::Tensors& sae, float at_least,
                         std::int64_t limit = 0) {
    return device.screen_above(sae, {&at_least, 1}, limit);
}

inline double square_norm(device::Device& device, const device::Tensors& t) {
    std::vector<std::span<float>> arrays = {t.w_enc.span(), t.w_dec.span()};
    for (const std::span<float> small : t.small()) arrays.push_back(small);
    std::vector<double> norms(arrays.size());
    device.square_norms(arrays, norms);
    double sum = 0;
    for (const double norm : norms) sum += norm;
    return sum;
}

inline std::vector<double> widen(const std::vector<float>& values) {
    return {values.begin(), values.end()};
}

template <typename T>
double largest(const std::vector<T>& values) {
    double most = 0;
    for (const T v : values) most = std::max(most, std::abs(static_cast<double>(v)));
    return most;
}

// The largest difference of two tensors over the largest element of the second.
template <typename T, typename U>
double relative_difference(const std::vector<T>& a, const std::vector<U>& b) {
    double most = 0;
    for (std::size_t i = 0; i < a.size(); ++i)
        most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    const double scale = largest(b);
    return scale == 0 ? most : most / scale;
}

// FNV-1a over the bit patterns, for comparing states across ranks.
template <typename T>
std::uint64_t bits_of(const std::vector<T>& values, std::uint64_t hash = 14695981039346656037U) {
    for (const std::byte b : std::as_bytes(std::span(values)))
        hash = (hash ^ static_cast<std::uint64_t>(b)) * 1099511628211U;
    return hash;
}

template <typename T>
std::uint64_t bits_of(const reference::Sae<T>& sae) {
    std::uint64_t hash = bits_of(sae.tensor(0));
    for (int i = 1; i < reference::Sae<T>::tensors; ++i) hash = bits_of(sae.tensor(i), hash);
    return hash;
}

}  // namespace strata::test
