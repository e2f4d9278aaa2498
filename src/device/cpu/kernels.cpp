#include "device/cpu/kernels.h"

#include <dnnl.h>
#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "device/cpu/kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "device/cpu/optimizer-inl.h"
#include "device/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace strata::device::HWY_NAMESPACE {

float Dot(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, std::int64_t n) {
    const D d;
    V sums[vectors];
    for (std::int64_t c = 0; c < vectors; ++c) sums[c] = hn::Zero(d);
    std::int64_t i = 0;
    for (; i + chain_lanes <= n; i += chain_lanes)
        for (std::int64_t c = 0; c < vectors; ++c)
            sums[c] = hn::MulAdd(hn::LoadU(d, a + i + c * lanes), hn::LoadU(d, b + i + c * lanes), sums[c]);
    add_tail(d, a, b, i, n, sums);
    return fold_chains(d, sums);
}

Alignment Align(const float* HWY_RESTRICT xc, const float* HWY_RESTRICT b, const float* HWY_RESTRICT residual,
                std::int64_t n) {
    const D d;
    V xx[square_vectors], xh[square_vectors], hh[square_vectors];
    for (std::int64_t c = 0; c < square_vectors; ++c) xx[c] = xh[c] = hh[c] = hn::Zero(d);
    const auto one = [&](std::int64_t c, V xcs, V bs, V residuals) {
        const V x = hn::Add(xcs, bs);
        const V x_hat = hn::Add(x, residuals);
        xx[c] = hn::MulAdd(x, x, xx[c]);
        xh[c] = hn::MulAdd(x, x_hat, xh[c]);
        hh[c] = hn::MulAdd(x_hat, x_hat, hh[c]);
    };
    std::int64_t i = 0, c = 0;
    for (; i + lanes <= n; i += lanes, c = (c + 1) % square_vectors)
        one(c, hn::LoadU(d, xc + i), hn::LoadU(d, b + i), hn::LoadU(d, residual + i));
    if (i < n)
        one(c, load_first(d, xc + i, n - i), load_first(d, b + i, n - i), load_first(d, residual + i, n - i));
    return {fold_chains(d, xx), fold_chains(d, xh), fold_chains(d, hh)};
}

// Four pairs of rows; with `same` all of one b, whose loads they share.
template <bool same>
HWY_INLINE void four_dots(const float* const (&left)[4], const float* const (&right)[4], std::int64_t n,
                          float* HWY_RESTRICT out) {
    const D d;
    V sums[4][vectors];
    for (auto& row : sums)
        for (std::int64_t c = 0; c < vectors; ++c) row[c] = hn::Zero(d);
    std::int64_t at = 0;
    for (; at + chain_lanes <= n; at += chain_lanes) {
        for (std::int64_t c = 0; c < vectors; ++c) {
            V b = hn::LoadU(d, right[0] + at + c * lanes);
            for (int r = 0; r < 4; ++r) {
                if (!same && r > 0) b = hn::LoadU(d, right[r] + at + c * lanes);
                sums[r][c] = hn::MulAdd(hn::LoadU(d, left[r] + at + c * lanes), b, sums[r][c]);
            }
        }
    }
    for (int r = 0; r < 4; ++r) {
        add_tail(d, left[r], right[r], at, n, sums[r]);
        out[r] = fold_chains(d, sums[r]);
    }
}

// Four rows at a time share the loads of x and hide each other's latency. Explicit prefetches of the rows
// after them cost a few per cent (measured on AVX-512); the hardware follows each row by itself.
void Dots(const float* HWY_RESTRICT x, const float* HWY_RESTRICT base,
          const std::uint32_t* HWY_RESTRICT index, std::int64_t count, std::int64_t n,
          float* HWY_RESTRICT out) {
    std::int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const float* rows[4];
        for (int r = 0; r < 4; ++r) rows[r] = base + static_cast<std::int64_t>(index[i + r]) * n;
        four_dots<true>(rows, {x, x, x, x}, n, out + i);
    }
    for (; i < count; ++i) out[i] = Dot(x, base + static_cast<std::int64_t>(index[i]) * n, n);
}

// The same sums for pairs of rows, faster in runs of one b.
void PairDots(const float* HWY_RESTRICT a, const std::uint32_t* HWY_RESTRICT a_index,
              const float* HWY_RESTRICT b, const std::uint32_t* HWY_RESTRICT b_index, std::int64_t count,
              std::int64_t n, float* HWY_RESTRICT out) {
    const auto row = [n](const float* base, std::uint32_t i) {
        return base + static_cast<std::int64_t>(i) * n;
    };
    std::int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const float* left[4];
        const float* right[4];
        bool same = true;
        for (int r = 0; r < 4; ++r) {
            left[r] = row(a, a_index[i + r]);
            right[r] = row(b, b_index[i + r]);
            same = same && right[r] == right[0];
        }
        if (same)
            four_dots<true>(left, right, n, out + i);
        else
            four_dots<false>(left, right, n, out + i);
    }
    for (; i < count; ++i) out[i] = Dot(row(a, a_index[i]), row(b, b_index[i]), n);
}

void AddRow(const float* HWY_RESTRICT a, float s, std::int64_t n, float* HWY_RESTRICT inout) {
    const D d;
    const V factor = hn::Set(d, s);
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes)
        hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, a + i), hn::LoadU(d, inout + i)), d, inout + i);
    for (; i < n; ++i) inout[i] = std::fma(s, a[i], inout[i]);
}

// Four rows a pass, one load and one store of the sum for all four.
void AddRows(const float* HWY_RESTRICT base, const std::uint32_t* HWY_RESTRICT index,
             const float* HWY_RESTRICT weight, std::int64_t count, std::int64_t n,
             float* HWY_RESTRICT inout) {
    const D d;
    std::int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const float* rows[4];
        V factors[4];
        for (int r = 0; r < 4; ++r) {
            rows[r] = base + static_cast<std::int64_t>(index[i + r]) * n;
            factors[r] = hn::Set(d, weight[i + r]);
        }
        std::int64_t at = 0;
        for (; at + lanes <= n; at += lanes) {
            V sum = hn::LoadU(d, inout + at);
            for (int r = 0; r < 4; ++r) sum = hn::MulAdd(factors[r], hn::LoadU(d, rows[r] + at), sum);
            hn::StoreU(sum, d, inout + at);
        }
        for (; at < n; ++at)
            for (int r = 0; r < 4; ++r) inout[at] = std::fma(weight[i + r], rows[r][at], inout[at]);
    }
    for (; i < count; ++i) AddRow(base + static_cast<std::int64_t>(index[i]) * n, weight[i], n, inout);
}

// One latent's gradient in one tile of columns; the sum stays in `vectors_of_tile` registers. `valid` columns
// exist.
template <int vectors_of_tile>
float AddTile(const TileSource* sources, std::int64_t count, std::int64_t valid, float along,
              const float* HWY_RESTRICT direction, bool keep, float* HWY_RESTRICT out) {
    const D d;
    constexpr std::int64_t width = vectors_of_tile * lanes;
    V sum[vectors_of_tile];
    for (auto& v : sum) v = hn::Zero(d);
    for (int v = 0; keep && v * lanes < valid; ++v)
        sum[v] = valid - v * lanes >= lanes ? hn::LoadU(d, out + v * lanes)
                                            : load_first(d, out + v * lanes, valid - v * lanes);
    for (std::int64_t s = 0; s < count; ++s) {
        const TileSource& source = sources[s];
        for (std::int64_t e = 0; e < source.count; ++e) {
            const float* HWY_RESTRICT row = source.tile + static_cast<std::int64_t>(source.row[e]) * width;
            const V weight = hn::Set(d, source.weight[e]);
            for (int v = 0; v < vectors_of_tile; ++v)
                sum[v] = hn::MulAdd(weight, hn::Load(d, row + v * lanes), sum[v]);
        }
    }
    V square[square_vectors];
    for (auto& v : square) v = hn::Zero(d);
    const V minus_along = hn::Set(d, -along);
    for (int v = 0; v < vectors_of_tile; ++v) {
        const std::int64_t left = valid - v * lanes;
        if (left <= 0) break;
        if (left >= lanes) {
            if (direction != nullptr)
                sum[v] = hn::MulAdd(minus_along, hn::LoadU(d, direction + v * lanes), sum[v]);
            hn::StoreU(sum[v], d, out + v * lanes);
        } else {
            if (direction != nullptr)
                sum[v] = hn::MulAdd(minus_along, load_first(d, direction + v * lanes, left), sum[v]);
            store_first(d, sum[v], out + v * lanes, left);
        }
        V& chain = square[v % square_vectors];
        chain = hn::MulAdd(sum[v], sum[v], chain);
    }
    return fold_chains(d, square);
}

float AddTiles(const TileSource* sources, std::int64_t count, std::int64_t width, std::int64_t valid,
               float along, const float* direction, bool keep, float* out) {
    if (width == 64) return AddTile<64 / lanes>(sources, count, valid, along, direction, keep, out);
    if (width == 32) return AddTile<32 / lanes>(sources, count, valid, along, direction, keep, out);
    return AddTile<16 / lanes>(sources, count, valid, along, direction, keep, out);
}

float Subtract(const float* HWY_RESTRICT x, const float* HWY_RESTRICT b, std::int64_t n,
               float* HWY_RESTRICT out) {
    const D d;
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes)
        hn::StoreU(hn::Sub(hn::LoadU(d, x + i), hn::LoadU(d, b + i)), d, out + i);
    for (; i < n; ++i) out[i] = x[i] - b[i];
    return Dot(out, out, n);
}

void Multiply(float s, std::int64_t n, float* HWY_RESTRICT inout) {
    const D d;
    const V factor = hn::Set(d, s);
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Mul(factor, hn::LoadU(d, inout + i)), d, inout + i);
    for (; i < n; ++i) inout[i] *= s;
}

std::int64_t Scan(const float* HWY_RESTRICT z, const float* HWY_RESTRICT bias, std::int64_t count,
                  float limit, std::uint32_t first_latent, std::uint32_t* HWY_RESTRICT latent,
                  float* HWY_RESTRICT value) {
    const D d;
    const hn::RebindToUnsigned<D> du;
    const V limits = hn::Set(d, limit);
    std::int64_t found = 0;
    std::int64_t j = 0;
    // Few vectors hold a survivor, so the compress runs rarely and the loop is one load, add and compare.
    for (; j + lanes <= count; j += lanes) {
        const V sum = hn::Add(hn::LoadU(d, z + j), hn::LoadU(d, bias + j));
        const auto passes = hn::Ge(sum, limits);
        if (HWY_LIKELY(hn::AllFalse(d, passes))) continue;
        // Whole vectors are stored, found <= j: a compressing store is ten times slower on some CPUs (Zen 4).
        const auto names = hn::Iota(du, first_latent + static_cast<std::uint32_t>(j));
        hn::StoreU(hn::Compress(names, hn::RebindMask(du, passes)), du, latent + found);
        hn::StoreU(hn::Compress(sum, passes), d, value + found);
        found += static_cast<std::int64_t>(hn::CountTrue(d, passes));
    }
    for (; j < count; ++j) {
        const float sum = z[j] + bias[j];
        if (sum >= limit) {
            latent[found] = first_latent + static_cast<std::uint32_t>(j);
            value[found++] = sum;
        }
    }
    return found;
}

Kernels Table() {
    return {hwy::TargetName(HWY_TARGET),
            Subtract,
            Dot,
            Align,
            Dots,
            PairDots,
            AddRow,
            AddRows,
            Multiply,
            AddTiles,
            Scan,
            Optimize};
}

}  // namespace strata::device::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::device {

HWY_EXPORT(Table);

const Kernels& kernels() {
    static const Kernels chosen = HWY_DYNAMIC_DISPATCH(Table)();
    return chosen;
}

// A better target of x86 has a lower bit.
void use_avx2_only() {
    hwy::DisableTargets(HWY_AVX2 - 1);
    dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
}

std::vector<Kernels> all_kernels() {
    std::vector<Kernels> all;
    for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
        hwy::SetSupportedTargetsForTest(target);
        all.push_back(HWY_DYNAMIC_DISPATCH(Table)());
    }
    hwy::SetSupportedTargetsForTest(0);
    return all;
}

}  // namespace strata::device
#endif
