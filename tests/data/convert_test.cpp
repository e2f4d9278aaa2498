#include "data/convert.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace strata::data {
namespace {

// Runs `check` once for every instruction set this CPU offers.
template <class Check>
void on_every_target(const Check& check) {
    for (std::int64_t rest = hwy::SupportedTargets(); rest != 0; rest &= rest - 1) {
        const std::int64_t target = rest & -rest;
        SCOPED_TRACE(hwy::TargetName(target));
        hwy::SetSupportedTargetsForTest(target);
        hwy::GetChosenTarget().Update(hwy::SupportedTargets());
        check();
        hwy::SetSupportedTargetsForTest(0);
        hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    }
}

// By the definition of the format: sign, exponent of `exponent_bits`, mantissa of the rest.
double value_of(std::uint16_t bits, int exponent_bits) {
    const int mantissa_bits = 15 - exponent_bits;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = (bits & 0x7fff) >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const double sign = (bits & 0x8000) != 0 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1)
        return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                             : sign * std::numeric_limits<double>::infinity();
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

int exponent_bits(Type type) {
    return type == Type::float16 ? 5 : 8;
}

std::vector<std::uint16_t> all_patterns() {
    std::vector<std::uint16_t> patterns(65536);
    for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
    return patterns;
}

// The pattern of the finite value nearest to x, ties to the even one; infinity from half a step above the
// largest.
std::uint16_t nearest(float x, Type type) {
    const int bits = exponent_bits(type);
    const auto infinite = static_cast<std::uint16_t>(((1 << bits) - 1) << (15 - bits));
    const double magnitude = std::abs(static_cast<double>(x));
    std::uint16_t low = 0, high = infinite;  // value(low) <= magnitude < value(high)
    while (high - low > 1) {
        const auto middle = static_cast<std::uint16_t>((low + high) / 2);
        (value_of(middle, bits) <= magnitude ? low : high) = middle;
    }
    const double below = value_of(low, bits);
    const double step = low == infinite - 1 ? below - value_of(low - 1, bits) : value_of(high, bits) - below;
    const double above = magnitude - below - step / 2;
    const std::uint16_t found = above > 0 || (above == 0 && (low & 1) != 0) ? high : low;
    return static_cast<std::uint16_t>(found | (std::signbit(x) ? 0x8000 : 0));
}

TEST(Convert, EveryPatternOnEveryTarget) {
    const auto patterns = all_patterns();
    for (const Type type : {Type::float16, Type::bfloat16})
        on_every_target([&] {
            std::vector<float> converted(patterns.size());
            to_float(type, std::as_bytes(std::span(patterns)), converted);
            std::vector<std::uint16_t> back(patterns.size());
            from_float(type, converted, std::as_writable_bytes(std::span(back)));
            for (std::size_t i = 0; i < patterns.size(); ++i) {
                const double expected = value_of(patterns[i], exponent_bits(type));
                if (std::isnan(expected)) {
                    ASSERT_TRUE(std::isnan(converted[i])) << name_of(type) << " pattern " << i;
                    ASSERT_TRUE(std::isnan(value_of(back[i], exponent_bits(type))))
                        << name_of(type) << " pattern " << i;
                } else {
                    ASSERT_EQ(std::bit_cast<std::uint32_t>(converted[i]),
                              std::bit_cast<std::uint32_t>(static_cast<float>(expected)))
                        << name_of(type) << " pattern " << i;
                    ASSERT_EQ(back[i], patterns[i]) << name_of(type);
                }
            }
        });
}

TEST(Convert, RoundsToNearestEvenOnEveryTarget) {
    std::vector<float> values = {0.0F,
                                 -0.0F,
                                 65519.99F,
                                 65520.0F,
                                 -65520.0F,
                                 1e-8F,
                                 0x1p-25F,
                                 0x1.000002p-25F,
                                 0x1.8p-24F,
                                 std::numeric_limits<float>::max(),
                                 std::numeric_limits<float>::denorm_min()};
    // Every boundary between two neighbours, and the floats on either side of it.
    for (int i = 0; i < 0x7c00; ++i) {
        const auto tie =
            static_cast<float>((value_of(static_cast<std::uint16_t>(i), 5) +
                                (i == 0x7bff ? 65536.0 : value_of(static_cast<std::uint16_t>(i + 1), 5))) /
                               2);
        for (const float v : {tie, std::nextafter(tie, 0.0F), std::nextafter(tie, 1e9F)})
            values.push_back(i % 2 == 0 ? v : -v);
    }
    for (std::uint32_t i = 0; i < 0x7f80; ++i)
        for (const std::uint32_t low : {0x7fffU, 0x8000U, 0x8001U})
            values.push_back(std::bit_cast<float>(i << 16 | low));
    for (const Type type : {Type::float16, Type::bfloat16}) {
        std::vector<std::uint16_t> expected;
        for (const float v : values) expected.push_back(nearest(v, type));
        on_every_target([&] {
            std::vector<std::uint16_t> rounded(values.size());
            from_float(type, values, std::as_writable_bytes(std::span(rounded)));
            for (std::size_t i = 0; i < values.size(); ++i)
                ASSERT_EQ(rounded[i], expected[i]) << name_of(type) << " " << values[i];
        });
    }
}

TEST(Convert, ScaleAndTailsOfEveryLength) {
    const std::vector<std::uint16_t> source = {0x3c00, 0xc000, 0x3800, 0x0001, 0x7bff,
                                               0x0400, 0x1234, 0x9abc, 0x4500, 0x3555};
    for (const Type type : {Type::float16, Type::bfloat16})
        on_every_target([&] {
            for (std::size_t n = 0; n < 70; ++n) {
                std::vector<std::uint16_t> in(n);
                for (std::size_t i = 0; i < n; ++i) in[i] = source[i % source.size()];
                std::vector<float> out(n + 1, -7.0F);
                to_float(type, std::as_bytes(std::span(in)), std::span(out).first(n), 0.25F);
                for (std::size_t i = 0; i < n; ++i)
                    ASSERT_EQ(out[i], static_cast<float>(0.25 * value_of(in[i], exponent_bits(type))));
                ASSERT_EQ(out[n], -7.0F) << "written past the end, n " << n;
            }
        });
}

TEST(Convert, SumOfSquaresHasTheSameBitsOnEveryVectorTarget) {
    for (const std::size_t n : {1, 31, 32, 33, 100, 576}) {
        std::vector<float> row(n);
        for (std::size_t i = 0; i < n; ++i) row[i] = std::sin(static_cast<float>(3 * i + 1)) * 40.0F;
        for (const Type type : {Type::float16, Type::bfloat16, Type::float32}) {
            std::vector<std::byte> raw(n * size_of(type));
            from_float(type, row, raw);
            std::vector<float> stored(n);
            to_float(type, raw, stored);
            double exact = 0;
            for (const float v : stored) exact += static_cast<double>(v) * v;
            const float chosen = sum_of_squares(type, raw);
            EXPECT_NEAR(chosen, exact, 1e-5 * exact);
            // Products of 16-bit values are exact in float32, so targets without a fused product agree as
            // well.
            if (type != Type::float32) on_every_target([&] { ASSERT_EQ(sum_of_squares(type, raw), chosen); });
        }
    }
}

TEST(Convert, SumOfSquaresShowsNonFiniteElements) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
        for (const std::size_t at : {0, 31, 32, 65}) {
            std::vector<float> row(66, 1.0F);
            row[at] = bad;
            for (const Type type : {Type::float16, Type::bfloat16, Type::float32}) {
                std::vector<std::byte> raw(row.size() * size_of(type));
                from_float(type, row, raw);
                on_every_target([&] { EXPECT_FALSE(std::isfinite(sum_of_squares(type, raw))); });
            }
        }
}

TEST(Convert, CopyPastCacheCopiesAnyBytesAnywhere) {
    std::vector<std::byte> from(400), to(600);
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 37 % 251);
    on_every_target([&] {
        for (const std::size_t size : {0, 1, 63, 64, 65, 200, 256, 399})
            for (std::size_t at = 0; at < 130; at += at < 66 ? 1 : 32) {
                std::ranges::fill(to, std::byte{255});
                copy_past_cache(std::span(from).subspan(1, size), std::span(to).subspan(at, size));
                ASSERT_TRUE(std::equal(to.begin() + static_cast<std::ptrdiff_t>(at),
                                       to.begin() + static_cast<std::ptrdiff_t>(at + size),
                                       from.begin() + 1));
                const auto untouched = std::ranges::count(to, std::byte{255});
                ASSERT_EQ(static_cast<std::size_t>(untouched), to.size() - size);
            }
    });
}

}  // namespace
}  // namespace strata::data
