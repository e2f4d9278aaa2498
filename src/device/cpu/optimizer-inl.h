// The optimiser's step in vectors; device/element.h has it for one number. Included once for each instruction
// set (Highway).

#if defined(STRATA_OPTIMIZER_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef STRATA_OPTIMIZER_INL_H
#undef STRATA_OPTIMIZER_INL_H
#else
#define STRATA_OPTIMIZER_INL_H
#endif

#include <hwy/highway.h>

#include "device/cpu/vectors-inl.h"
#include "device/element.h"

HWY_BEFORE_NAMESPACE();
namespace strata::device::HWY_NAMESPACE {

// Schedule-free: z in the place of m.
void ScheduleFree(float* HWY_RESTRICT w, float* HWY_RESTRICT z, float* HWY_RESTRICT v,
                  const float* HWY_RESTRICT g, std::int64_t n, const Rates& r) {
    const D d;
    const bool sign = r.kind == OptimizerStep::Kind::signum;
    const V beta2 = hn::Set(d, r.beta2), rest2 = hn::Set(d, r.rest2), roots = hn::Set(d, r.root),
            epsilon = hn::Set(d, r.epsilon), scale = hn::Set(d, r.scale), lr = hn::Set(d, r.lr),
            average = hn::Set(d, r.average), lr_here = hn::Set(d, r.lr_here), one = hn::Set(d, 1.0F);
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        V gs = hn::LoadU(d, g + i), u;
        if (sign) {
            u = hn::IfThenElseZero(hn::Ne(gs, hn::Zero(d)), hn::CopySign(one, gs));
        } else {
            gs = hn::Mul(scale, gs);
            const V vs = hn::MulAdd(beta2, hn::LoadU(d, v + i), hn::Mul(rest2, hn::Mul(gs, gs)));
            hn::StoreU(vs, d, v + i);
            u = hn::Div(gs, hn::MulAdd(hn::Sqrt(vs), roots, epsilon));
        }
        const V ws = hn::LoadU(d, w + i), zs = hn::LoadU(d, z + i);
        hn::StoreU(hn::NegMulAdd(lr_here, u, hn::MulAdd(average, hn::Sub(zs, ws), ws)), d, w + i);
        hn::StoreU(hn::NegMulAdd(lr, u, zs), d, z + i);
    }
    for (; i < n; ++i) optimize(r, g[i], w[i], z[i], v + i);
}

void Adam(float* HWY_RESTRICT w, float* HWY_RESTRICT m, float* HWY_RESTRICT v, const float* HWY_RESTRICT g,
          std::int64_t n, const Rates& r) {
    const D d;
    const V beta1 = hn::Set(d, r.beta1), beta2 = hn::Set(d, r.beta2), rest1 = hn::Set(d, r.rest1),
            rest2 = hn::Set(d, r.rest2), rates = hn::Set(d, r.rate), roots = hn::Set(d, r.root),
            epsilon = hn::Set(d, r.epsilon);
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        const V gs = hn::LoadU(d, g + i);
        const V ms = hn::MulAdd(beta1, hn::LoadU(d, m + i), hn::Mul(rest1, gs));
        const V vs = hn::MulAdd(beta2, hn::LoadU(d, v + i), hn::Mul(rest2, hn::Mul(gs, gs)));
        const V move = hn::Div(hn::Mul(rates, ms), hn::MulAdd(hn::Sqrt(vs), roots, epsilon));
        hn::StoreU(ms, d, m + i);
        hn::StoreU(vs, d, v + i);
        hn::StoreU(hn::Sub(hn::LoadU(d, w + i), move), d, w + i);
    }
    for (; i < n; ++i) optimize(r, g[i], w[i], m[i], v + i);
}

void Optimize(float* w, float* m, float* v, const float* g, std::int64_t n, const Rates& rates) {
    if (rates.kind == OptimizerStep::Kind::adam)
        Adam(w, m, v, g, n, rates);
    else
        ScheduleFree(w, m, v, g, n, rates);
}

}  // namespace strata::device::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
