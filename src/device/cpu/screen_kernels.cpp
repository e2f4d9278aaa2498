#include "device/cpu/screen_kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/cpu/screen_kernels.cpp"
#define HWY_WANT_AVX3_DL
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET <= HWY_AVX3_DL && HWY_COMPILER_GCC_ACTUAL
// Highway asks the CPU for VNNI with this target; before 1.0.5 it does not ask the compiler.
#pragma GCC target("avx512vnni")
#endif
namespace strata::device::HWY_NAMESPACE {

#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86_64

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<D>;
using V = hn::Vec<D>;
using VI = hn::Vec<DI>;

constexpr std::int64_t lanes = hn::MaxLanes(D());
constexpr bool has_vnni = HWY_TARGET <= HWY_AVX3_DL;
// A tile keeps its sums in registers: of 32, or of 16.
constexpr std::int64_t tile_rows = HWY_TARGET <= HWY_AVX3 ? 12 : 6;
constexpr std::int64_t tile_columns = 2 * lanes;
// Without VNNI products are summed in 16 bits over `chunk` steps of four dimensions: 2 largest (offset +
// largest) chunk <= 32767.
constexpr int largest = has_vnni ? 127 : 45;
constexpr int offset = has_vnni ? 128 : 45;
constexpr std::int64_t chunk = 4;

// `radix` vectors of each of the 16 columns at distance `stride`: log2(radix) stages of the Hadamard
// transform.
template <int radix>
HWY_INLINE void butterflies(D d, float* x, std::int64_t group, std::int64_t stride, float factor) {
    const V factors = hn::Set(d, factor);
    for (std::int64_t base = 0; base < group; base += radix * stride) {
        for (std::int64_t i = base; i < base + stride; ++i) {
            for (std::int64_t c = 0; c < 16; c += lanes) {
                float* at = x + i * 16 + c;
                V v[radix];
                for (int r = 0; r < radix; ++r) v[r] = hn::Load(d, at + r * stride * 16);
                for (int h = 1; h < radix; h *= 2)
                    for (int r = 0; r < radix; ++r)
                        if ((r & h) == 0) {
                            const V sum = hn::Add(v[r], v[r + h]);
                            v[r + h] = hn::Sub(v[r], v[r + h]);
                            v[r] = sum;
                        }
                for (int r = 0; r < radix; ++r) hn::Store(hn::Mul(v[r], factors), d, at + r * stride * 16);
            }
        }
    }
}

// The orthogonal Hadamard transform across `group` (a power of two) rows of 16.
HWY_INLINE void hadamard(D d, float* x, std::int64_t group) {
    const float all = 1.0F / std::sqrt(static_cast<float>(group));
    for (std::int64_t stride = 1; stride < group;) {
        const std::int64_t left = group / stride;
        const auto factor = [&](std::int64_t radix) { return left == radix ? all : 1.0F; };
        if (left >= 8 && left != 16) {
            butterflies<8>(d, x, group, stride, factor(8));
            stride *= 8;
        } else if (left >= 4) {
            butterflies<4>(d, x, group, stride, factor(4));
            stride *= 4;
        } else {
            butterflies<2>(d, x, group, stride, factor(2));
            stride *= 2;
        }
    }
}

// Where the number of rows of 16 is no power of two, one transform over the first of them and one over the
// last.
void Rotate(const float* HWY_RESTRICT x, const float* HWY_RESTRICT mean, const float* HWY_RESTRICT sign,
            std::int64_t n, std::int64_t padded, float* HWY_RESTRICT out) {
    const D d;
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes)
        hn::Store(hn::Mul(hn::Load(d, sign + i), hn::Sub(hn::LoadU(d, x + i), hn::Load(d, mean + i))), d,
                  out + i);
    for (; i < n; ++i) out[i] = sign[i] * (x[i] - mean[i]);
    std::fill(out + n, out + padded, 0.0F);
    const std::int64_t rows = padded / 16;
    const auto group = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(rows)));
    hadamard(d, out, group);
    if (group < rows) hadamard(d, out + (rows - group) * 16, group);
}

Quantized Quantize(const float* HWY_RESTRICT x, const float* HWY_RESTRICT dither,
                   const float* HWY_RESTRICT other, std::int64_t padded, bool latent,
                   std::uint8_t* HWY_RESTRICT out) {
    const D d;
    const DI di;
    V most = hn::Zero(d);
    for (std::int64_t i = 0; i < padded; i += lanes) most = hn::Max(most, hn::Abs(hn::Load(d, x + i)));
    // |x / s + u| <= largest - 0.51 + 0.5: no integer is cut off. A larger scale than needed is always right,
    // so rows of zeros, or nearly, get one that can be divided by.
    const float scale =
        std::max(hn::GetLane(hn::MaxOfLanes(d, most)), 1e-30F) / (static_cast<float>(largest) - 0.51F);
    const V inverse = hn::Set(d, 1.0F / scale);
    V square = hn::Zero(d), residual = hn::Zero(d), with = hn::Zero(d);
    VI sum = hn::Zero(di);
    for (std::int64_t i = 0; i < padded; i += lanes) {
        const V y = hn::Mul(hn::Load(d, x + i), inverse);
        const VI integer = hn::NearestInt(hn::Add(y, hn::Load(d, dither + i)));
        const V value = hn::ConvertTo(d, integer);
        const V rest = hn::Sub(value, y);
        square = hn::MulAdd(y, y, square);
        residual = hn::MulAdd(rest, rest, residual);
        with = hn::MulAdd(value, hn::Load(d, other + i), with);
        sum = hn::Add(sum, integer);
        if (latent) {
            const hn::Rebind<std::uint8_t, D> d8;
            hn::StoreU(hn::DemoteTo(d8, hn::Add(integer, hn::Set(di, offset))), d8, out + i);
        } else {
            const hn::Rebind<std::int8_t, D> d8;
            hn::StoreU(hn::DemoteTo(d8, integer), d8, reinterpret_cast<std::int8_t*>(out + i));
        }
    }
    const auto total = [&](V v) { return hn::GetLane(hn::SumOfLanes(d, v)); };
    return {scale, total(square), total(residual), total(with),
            static_cast<float>(hn::GetLane(hn::SumOfLanes(di, sum)))};
}

// i.p of a tile: four dimensions a step. Instructions that add in place are written as such, since compilers
// copy the sums to other registers, or to memory, and lose up to half of the speed.
HWY_INLINE void tile_product(const std::uint8_t* HWY_RESTRICT rows, const std::uint8_t* HWY_RESTRICT latents,
                             std::int64_t steps, VI (&out)[tile_rows][2]) {
    const DI di;
    const auto load = [&](std::int64_t c) {
        return hn::Load(di, reinterpret_cast<const std::int32_t*>(latents + c * lanes * 4));
    };
    VI sums[tile_rows][2];
    for (auto& row : sums) row[0] = row[1] = hn::Zero(di);
#if HWY_TARGET <= HWY_AVX3_DL
    using Four = std::int32_t __attribute__((may_alias, aligned(4)));
    for (std::int64_t k = 0; k < steps; ++k) {
        const VI left = load(0), right = load(1);
        const auto* four = reinterpret_cast<const Four*>(rows);
        HWY_UNROLL(12)
        for (std::int64_t r = 0; r < tile_rows; ++r) {
            asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums[r][0].raw) : "v"(left.raw), "m"(four[r]));
            asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums[r][1].raw) : "v"(right.raw), "m"(four[r]));
        }
        rows += tile_rows * 4;
        latents += tile_columns * 4;
    }
#else
    const auto group = [&](std::int64_t r) {
        std::int32_t four;
        std::memcpy(&four, rows + r * 4, 4);
        return hn::Set(di, four);
    };
#if HWY_TARGET <= HWY_AVX3
    const auto pairs = [](VI w, VI x) HWY_ATTR { return VI{_mm512_maddubs_epi16(w.raw, x.raw)}; };
    const auto widen = [](VI a) HWY_ATTR { return VI{_mm512_madd_epi16(a.raw, _mm512_set1_epi16(1))}; };
#else
    const auto pairs = [](VI w, VI x) HWY_ATTR { return VI{_mm256_maddubs_epi16(w.raw, x.raw)}; };
    const auto widen = [](VI a) HWY_ATTR { return VI{_mm256_madd_epi16(a.raw, _mm256_set1_epi16(1))}; };
#endif
    for (std::int64_t k = 0; k < steps; k += chunk) {
        VI part[tile_rows][2];
        HWY_UNROLL(4)
        for (std::int64_t i = 0; i < chunk; ++i) {
            const VI left = load(0), right = load(1);
            HWY_UNROLL(12)
            for (std::int64_t r = 0; r < tile_rows; ++r) {
                const VI x = group(r);
                const VI a = pairs(left, x), b = pairs(right, x);
                if (i == 0) {
                    part[r][0] = a;
                    part[r][1] = b;
                } else {
                    asm("vpaddw %1, %0, %0" : "+v"(part[r][0].raw) : "v"(a.raw));
                    asm("vpaddw %1, %0, %0" : "+v"(part[r][1].raw) : "v"(b.raw));
                }
            }
            rows += tile_rows * 4;
            latents += tile_columns * 4;
        }
        HWY_UNROLL(12)
        for (std::int64_t r = 0; r < tile_rows; ++r) {
            sums[r][0] = hn::Add(sums[r][0], widen(part[r][0]));
            sums[r][1] = hn::Add(sums[r][1], widen(part[r][1]));
        }
    }
#endif
    HWY_UNROLL(12)
    for (std::int64_t r = 0; r < tile_rows; ++r) {
        out[r][0] = sums[r][0];
        out[r][1] = sums[r][1];
    }
}

std::int64_t Screen(const ScreenTile& t, std::uint32_t* HWY_RESTRICT row, std::uint32_t* HWY_RESTRICT latent,
                    float* HWY_RESTRICT value) {
    const D d;
    const hn::RebindToUnsigned<D> du;
    const V zero = hn::Zero(d);
    V add[2], bias[2], inverse[2];
    for (int c = 0; c < 2; ++c) {
        add[c] = hn::LoadU(d, t.latent_add + c * lanes);
        bias[c] = hn::LoadU(d, t.latent_bias + c * lanes);
        inverse[c] = hn::LoadU(d, t.latent_inverse + c * lanes);
    }
    std::int64_t found = 0;
    VI sums[tile_rows][2];
    for (std::int64_t tile = 0; tile < t.row_tiles; ++tile) {
        tile_product(t.rows + tile * t.steps * tile_rows * 4, t.latents, t.steps, sums);
        HWY_UNROLL(12)
        for (std::int64_t r = 0; r < tile_rows; ++r) {
            const std::int64_t b = tile * tile_rows + r;
            const V row_add = hn::Set(d, t.row_add[b]);
            const V row_inverse = hn::Set(d, t.row_inverse[b]);
            const V row_limit = hn::Set(d, t.row_limit[b]);
            V tests[2];
            for (int c = 0; c < 2; ++c) {
                const V z = hn::Add(hn::Add(hn::ConvertTo(d, sums[r][c]), add[c]), row_add);
                tests[c] = hn::NegMulAdd(inverse[c], row_limit, hn::MulAdd(bias[c], row_inverse, z));
            }
            const auto left = hn::Lt(tests[0], zero), right = hn::Lt(tests[1], zero);
            if (HWY_LIKELY(hn::AllTrue(d, hn::And(left, right)))) continue;
            for (int c = 0; c < 2; ++c) {
                const auto passes = hn::Not(c == 0 ? left : right);
                // Whole vectors are stored, at most as many as there are pairs: a compressing store is ten
                // times slower on some CPUs (Zen 4).
                const auto names = hn::Iota(du, t.first_latent + static_cast<std::uint32_t>(c * lanes));
                hn::StoreU(hn::Compress(names, hn::RebindMask(du, passes)), du, latent + found);
                hn::StoreU(hn::Compress(tests[c], passes), d, value + found);
                hn::StoreU(hn::Set(du, static_cast<std::uint32_t>(b)), du, row + found);
                found += static_cast<std::int64_t>(hn::CountTrue(d, passes));
            }
        }
    }
    return found;
}

ScreenKernels ScreenTable() {
    return {hwy::TargetName(HWY_TARGET), tile_rows, tile_columns, largest, offset, Rotate, Quantize, Screen};
}

#else

ScreenKernels ScreenTable() {
    return {};
}

#endif

}  // namespace strata::device::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::device {

HWY_EXPORT(ScreenTable);

const ScreenKernels* screen_kernels() {
    static const ScreenKernels chosen = HWY_DYNAMIC_DISPATCH(ScreenTable)();
    return chosen.target == nullptr ? nullptr : &chosen;
}

std::vector<ScreenKernels> all_screen_kernels() {
    std::vector<ScreenKernels> all;
    for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
        hwy::SetSupportedTargetsForTest(target);
        const ScreenKernels one = HWY_DYNAMIC_DISPATCH(ScreenTable)();
        if (one.target != nullptr) all.push_back(one);
    }
    hwy::SetSupportedTargetsForTest(0);
    return all;
}

}  // namespace strata::device
#endif
