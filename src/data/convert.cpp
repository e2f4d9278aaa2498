#include "data/convert.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "data/convert.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace strata::data::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using DU32 = hn::RebindToUnsigned<D>;
using DI32 = hn::RebindToSigned<D>;
using DU16 = hn::Rebind<std::uint16_t, D>;
using V = hn::Vec<D>;
using VU32 = hn::Vec<DU32>;

constexpr std::size_t lanes = hn::MaxLanes(D());

// From AVX2 on, x86 converts float16 in hardware; Highway's own code for older targets loses infinities and
// NaNs.
#define STRATA_HARDWARE_FLOAT16 (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2)

HWY_INLINE VU32 widen(const std::uint16_t* in) {
    return hn::PromoteTo(DU32(), hn::LoadU(DU16(), in));
}

HWY_INLINE void store_low(VU32 bits, std::uint16_t* out) {
    hn::StoreU(hn::DemoteTo(DU16(), hn::BitCast(DI32(), bits)), DU16(), out);
}

HWY_INLINE VU32 set(std::uint32_t bits) {
    return hn::Set(DU32(), bits);
}

HWY_INLINE VU32 choose(hn::Mask<DI32> mask, VU32 yes, VU32 no) {
    return hn::IfThenElse(hn::RebindMask(DU32(), mask), yes, no);
}

// Both below 2^31, where a signed comparison, the only one old targets have, is right.
HWY_INLINE hn::Mask<DI32> above(VU32 a, std::int32_t b) {
    return hn::Gt(hn::BitCast(DI32(), a), hn::Set(DI32(), b));
}

struct Float16 {
    using Element = std::uint16_t;
    static HWY_INLINE V load(const std::uint16_t* in) {
#if STRATA_HARDWARE_FLOAT16
        const hn::Rebind<hwy::float16_t, D> half;
        return hn::PromoteTo(D(), hn::BitCast(half, hn::LoadU(DU16(), in)));
#else
        // Read as float32 the exponent is 112 too small; a product with 2^112 mends that, subnormals
        // included.
        const VU32 bits = widen(in);
        const VU32 magnitude = hn::And(bits, set(0x7fff));
        const V value = hn::Mul(hn::BitCast(D(), hn::ShiftLeft<13>(magnitude)), hn::Set(D(), 0x1p112F));
        const VU32 special = hn::Or(hn::BitCast(DU32(), value), set(0x7f800000));
        const VU32 result = choose(above(magnitude, 0x7bff), special, hn::BitCast(DU32(), value));
        return hn::BitCast(D(), hn::Or(result, hn::ShiftLeft<16>(hn::And(bits, set(0x8000)))));
#endif
    }
    static HWY_INLINE void store(V v, std::uint16_t* out) {
#if STRATA_HARDWARE_FLOAT16
        const hn::Rebind<hwy::float16_t, D> half;
        hn::StoreU(hn::BitCast(DU16(), hn::DemoteTo(half, v)), DU16(), out);
#else
        const VU32 bits = hn::BitCast(DU32(), v);
        const VU32 magnitude = hn::And(bits, set(0x7fffffff));
        const VU32 odd = hn::And(hn::ShiftRight<13>(magnitude), set(1));
        const VU32 normal = hn::ShiftRight<13>(hn::Add(hn::Add(magnitude, set(0xc8000fff)), odd));
        // Adding 0.5 makes the float unit round at 2^-24, the last place of a subnormal.
        const V shifted = hn::Add(hn::BitCast(D(), magnitude), hn::Set(D(), 0.5F));
        const VU32 subnormal = hn::Sub(hn::BitCast(DU32(), shifted), set(0x3f000000));
        const VU32 payload = hn::And(hn::ShiftRight<13>(magnitude), set(0x3ff));
        VU32 result = choose(above(magnitude, 0x387fffff), normal, subnormal);
        result = choose(above(magnitude, 0x477fffff), set(0x7c00), result);
        result = choose(above(magnitude, 0x7f800000), hn::Or(payload, set(0x7e00)), result);
        store_low(hn::Or(result, hn::And(hn::ShiftRight<16>(bits), set(0x8000))), out);
#endif
    }
};

struct BFloat16 {
    using Element = std::uint16_t;
    static HWY_INLINE V load(const std::uint16_t* in) {
        return hn::BitCast(D(), hn::ShiftLeft<16>(widen(in)));
    }
    static HWY_INLINE void store(V v, std::uint16_t* out) {
        const VU32 bits = hn::BitCast(DU32(), v);
        const VU32 odd = hn::And(hn::ShiftRight<16>(bits), set(1));
        const VU32 rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, set(0x7fff)), odd));
        const VU32 quiet = hn::Or(hn::ShiftRight<16>(bits), set(0x40));
        const auto nan = above(hn::And(bits, set(0x7fffffff)), 0x7f800000);
        store_low(choose(nan, quiet, rounded), out);
    }
};

struct Float32 {
    using Element = float;
    static HWY_INLINE V load(const float* in) { return hn::LoadU(D(), in); }
    static HWY_INLINE void store(V v, float* out) { hn::StoreU(v, D(), out); }
};

template <class Format>
HWY_INLINE void widen_all(const typename Format::Element* HWY_RESTRICT in, std::size_t n, float scale,
                          float* HWY_RESTRICT out) {
    const V factor = hn::Set(D(), scale);
    std::size_t i = 0;
    for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Mul(Format::load(in + i), factor), D(), out + i);
    if (i == n) return;
    typename Format::Element rest[lanes] = {};
    float converted[lanes];
    std::copy(in + i, in + n, rest);
    hn::StoreU(hn::Mul(Format::load(rest), factor), D(), converted);
    std::copy_n(converted, n - i, out + i);
}

template <class Format>
HWY_INLINE void narrow_all(const float* HWY_RESTRICT in, std::size_t n,
                           typename Format::Element* HWY_RESTRICT out) {
    std::size_t i = 0;
    for (; i + lanes <= n; i += lanes) Format::store(hn::LoadU(D(), in + i), out + i);
    if (i == n) return;
    float rest[lanes] = {};
    typename Format::Element converted[lanes];
    std::copy(in + i, in + n, rest);
    Format::store(hn::LoadU(D(), rest), converted);
    std::copy_n(converted, n - i, out + i);
}

template <class Format>
HWY_INLINE float squares(const typename Format::Element* HWY_RESTRICT in, std::size_t n) {
    constexpr std::size_t chains = 32;
    constexpr std::size_t vectors = chains / lanes;
    V sums[vectors];
    for (V& sum : sums) sum = hn::Zero(D());
    const auto add = [&](const typename Format::Element* from) HWY_ATTR {
        for (std::size_t c = 0; c < vectors; ++c) {
            const V v = Format::load(from + c * lanes);
            sums[c] = hn::MulAdd(v, v, sums[c]);
        }
    };
    std::size_t i = 0;
    for (; i + chains <= n; i += chains) add(in + i);
    if (i < n) {
        typename Format::Element rest[chains] = {};
        std::copy(in + i, in + n, rest);
        add(rest);
    }
    float partial[chains];
    for (std::size_t c = 0; c < vectors; ++c) hn::StoreU(sums[c], D(), partial + c * lanes);
    for (std::size_t count = chains / 2; count > 0; count /= 2)
        for (std::size_t c = 0; c < count; ++c) partial[c] += partial[c + count];
    return partial[0];
}

template <class Action>
HWY_INLINE auto with_format(Type type, const Action& action) {
    switch (type) {
        case Type::float16:
            return action(Float16());
        case Type::bfloat16:
            return action(BFloat16());
        case Type::float32:
            break;
    }
    return action(Float32());
}

void ToFloat(Type type, const void* in, std::size_t n, float scale, float* out) {
    with_format(type, [&](auto format) HWY_ATTR {
        using Format = decltype(format);
        widen_all<Format>(static_cast<const typename Format::Element*>(in), n, scale, out);
    });
}

void FromFloat(Type type, const float* in, std::size_t n, void* out) {
    with_format(type, [&](auto format) HWY_ATTR {
        using Format = decltype(format);
        narrow_all<Format>(in, n, static_cast<typename Format::Element*>(out));
    });
}

float SumOfSquares(Type type, const void* in, std::size_t n) {
    return with_format(type, [&](auto format) HWY_ATTR {
        using Format = decltype(format);
        return squares<Format>(static_cast<const typename Format::Element*>(in), n);
    });
}

void CopyPastCache(const std::uint8_t* HWY_RESTRICT in, std::size_t n, std::uint8_t* HWY_RESTRICT out) {
    const hn::ScalableTag<std::uint8_t> d;
    std::size_t i = 0;
    if (reinterpret_cast<std::uintptr_t>(out) % hn::Lanes(d) == 0)
        for (; i + hn::Lanes(d) <= n; i += hn::Lanes(d)) hn::Stream(hn::LoadU(d, in + i), d, out + i);
    std::copy(in + i, in + n, out + i);
}

}  // namespace strata::data::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::data {

HWY_EXPORT(ToFloat);
HWY_EXPORT(FromFloat);
HWY_EXPORT(SumOfSquares);
HWY_EXPORT(CopyPastCache);

void to_float(Type type, std::span<const std::byte> in, std::span<float> out, float scale) {
    STRATA_ASSERT(in.size() == out.size() * size_of(type));
    HWY_DYNAMIC_DISPATCH(ToFloat)(type, in.data(), out.size(), scale, out.data());
}

void from_float(Type type, std::span<const float> in, std::span<std::byte> out) {
    STRATA_ASSERT(out.size() == in.size() * size_of(type));
    HWY_DYNAMIC_DISPATCH(FromFloat)(type, in.data(), in.size(), out.data());
}

float sum_of_squares(Type type, std::span<const std::byte> row) {
    return HWY_DYNAMIC_DISPATCH(SumOfSquares)(type, row.data(), row.size() / size_of(type));
}

void copy_past_cache(std::span<const std::byte> in, std::span<std::byte> out) {
    STRATA_ASSERT(in.size() == out.size());
    HWY_DYNAMIC_DISPATCH(CopyPastCache)
    (reinterpret_cast<const std::uint8_t*>(in.data()), in.size(),
     reinterpret_cast<std::uint8_t*>(out.data()));
}

}  // namespace strata::data
#endif
