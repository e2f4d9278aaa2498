// Vectors of floats, and sums in chains whose bits do not depend on the length of a vector. Included once for
// each instruction set (Highway).

#if defined(STRATA_VECTORS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef STRATA_VECTORS_INL_H
#undef STRATA_VECTORS_INL_H
#else
#define STRATA_VECTORS_INL_H
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace strata::device::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Chains of a dot product: 32 partial sums however long a vector is.
constexpr std::int64_t chain_lanes = 32;
constexpr std::int64_t lanes = hn::MaxLanes(D());
constexpr std::int64_t vectors = chain_lanes / lanes;
// The same for sums of squares beside other work: 16 chains.
constexpr std::int64_t square_vectors = 16 / lanes;

// The sum of a vector's lanes, upper half onto lower half.
template <class Tag>
HWY_INLINE float fold(Tag d, hn::Vec<Tag> v) {
#if HWY_TARGET != HWY_SCALAR
    if constexpr (hn::MaxLanes(Tag()) > 1) {
        const hn::Half<Tag> half;
        return fold(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
    }
#endif
    (void)d;
    return hn::GetLane(v);
}

// The first `count` < lanes elements of p, then zeros. Reads nothing beyond them: before AVX-512 a masked
// load may touch (or, on SSE, demand alignment of) the whole vector.
HWY_INLINE V load_first(D d, const float* p, std::int64_t count) {
#if HWY_MEM_OPS_MIGHT_FAULT
    HWY_ALIGN float copy[lanes] = {};
    std::copy_n(p, count, copy);
    return hn::Load(d, copy);
#else
    return hn::MaskedLoad(hn::FirstN(d, static_cast<std::size_t>(count)), d, p);
#endif
}

HWY_INLINE void store_first(D d, V v, float* p, std::int64_t count) {
    HWY_ALIGN float copy[lanes];
    hn::Store(v, d, copy);
    std::copy_n(copy, count, p);
}

// Adds the products of the chain elements [i, n) that do not fill all chains.
HWY_INLINE void add_tail(D d, const float* a, const float* b, std::int64_t i, std::int64_t n, V* sums) {
    for (std::int64_t c = 0; c < vectors && i < n; ++c, i += lanes) {
        if (n - i >= lanes)
            sums[c] = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sums[c]);
        else
            sums[c] = hn::MulAdd(load_first(d, a + i, n - i), load_first(d, b + i, n - i), sums[c]);
    }
}

template <std::int64_t size>
HWY_INLINE float fold_chains(D d, const V (&sums)[size]) {
    V folded[size];
    for (std::int64_t c = 0; c < size; ++c) folded[c] = sums[c];
    for (std::int64_t count = size; count > 1; count /= 2)
        for (std::int64_t c = 0; c < count / 2; ++c) folded[c] = hn::Add(folded[c], folded[c + count / 2]);
    return fold(d, folded[0]);
}

}  // namespace strata::device::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
