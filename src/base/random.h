#pragma once
// Counter-based random numbers (Philox 4x32-10, Random123): a number is a pure function of (seed, purpose,
// counter), so every rank and every resumed run draws the same one without a message or saved state.

#include <Random123/philox.h>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <span>
#include <utility>

namespace strata {

// What a stream of random numbers is for; part of the key, so that streams never overlap.
enum class Purpose : std::uint32_t {
    initial_weights = 1,
    chunk_order,
    row_order,
    synthetic,
    encoder_weights,
    mask,
    resampling,
    dither
};

struct Random {
    std::uint64_t seed;
    Purpose purpose;
    std::uint64_t stream = 0;   // e.g. the pass, the lane, the latent
    std::uint64_t counter = 0;  // the next block of four numbers
    unsigned used = 4;          // numbers of `block` already served
    r123::Philox4x32::ctr_type block{};

    Random(std::uint64_t seed_, Purpose purpose_, std::uint64_t stream_ = 0)
        : seed(seed_), purpose(purpose_), stream(stream_) {}

    std::uint32_t bits() {
        if (used == 4) {
            const r123::Philox4x32::ctr_type at = {
                {static_cast<std::uint32_t>(counter),
                 static_cast<std::uint32_t>(counter >> 32) ^ (static_cast<std::uint32_t>(purpose) << 24),
                 static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)}};
            const r123::Philox4x32::key_type key = {
                {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
            block = r123::Philox4x32{}(at, key);
            ++counter;
            used = 0;
        }
        return block[used++];
    }

    // Uniform in [0, 1), 24 bits.
    float uniform() { return static_cast<float>(bits() >> 8) * 0x1p-24F; }

    // Uniform in [0, n), n < 2^32; multiply-shift, bias below 2^-32 * n.
    std::uint32_t below(std::uint32_t n) {
        return static_cast<std::uint32_t>((static_cast<std::uint64_t>(bits()) * n) >> 32);
    }

    // Standard normal (Box-Muller; the second of the pair is not kept, so a draw is always two numbers).
    float normal() {
        const float u = (static_cast<float>(bits() >> 8) + 0.5F) * 0x1p-24F;
        const float v = uniform();
        return std::sqrt(-2.0F * std::log(u)) * std::cos(2.0F * std::numbers::pi_v<float> * v);
    }
};

// Fisher-Yates.
template <typename T>
void shuffle(std::span<T> items, Random random) {
    for (std::size_t i = items.size(); i > 1; --i)
        std::swap(items[i - 1], items[random.below(static_cast<std::uint32_t>(i))]);
}

}  // namespace strata
