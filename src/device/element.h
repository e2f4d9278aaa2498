#pragma once
// What is done to one number at a time, the same on every device: the optimiser's step, rules, and what a
// pair of a dense step adds to the sums by latent. Arrays are where the device has its own.

#include <cmath>
#include <cstdint>

#include "device/cuda/annotation.h"
#include "device/device.h"

namespace strata::device {

// The numbers of an OptimizerStep as its formulas take them, the same bits for every device.
struct Rates {
    OptimizerStep::Kind kind;
    float beta1, beta2;
    float rest1, rest2;  // 1 - beta; Adam's times the gradient's scale, and its square
    float rate;          // Adam's lr / c1
    float root;          // 1 / sqrt(c2)
    float epsilon, scale, lr;
    float lr_here;  // lr (1 - b1 (1 - c))
    float average;
};
Rates rates_of(const OptimizerStep& step);

// One element; the operations, and their roundings, are those of the CPU's vectors (cpu/optimizer-inl.h). `v`
// is not touched by signum.
STRATA_ELEMENT void optimize(const Rates& r, float g, float& w, float& m, float* v) {
    if (r.kind == OptimizerStep::Kind::adam) {
        m = fmaf(r.beta1, m, r.rest1 * g);
        *v = fmaf(r.beta2, *v, r.rest2 * (g * g));
        w -= r.rate * m / fmaf(sqrtf(*v), r.root, r.epsilon);
        return;
    }
    float u = g == 0 ? 0.0F : copysignf(1.0F, g);
    if (r.kind != OptimizerStep::Kind::signum) {
        g *= r.scale;
        *v = fmaf(r.beta2, *v, r.rest2 * (g * g));
        u = g / fmaf(sqrtf(*v), r.root, r.epsilon);
    }
    w = fmaf(-r.lr_here, u, fmaf(r.average, m - w, w));
    m = fmaf(-r.lr, u, m);
}

// A Gate.
struct GateView {
    const float* threshold;
    const float* gain;  // null: f = z
    const float* offset;
    const float* penalty;  // null: none
    const float* bias;
    float window;
    bool frozen, observe;

    STRATA_ELEMENT bool active(std::int64_t j, float z) const { return z > threshold[j]; }
    STRATA_ELEMENT bool in_window(std::int64_t j, float z) const {
        return fabsf(z - threshold[j]) < window / 2;
    }
    // Of an active pair, which has none where this is not positive.
    STRATA_ELEMENT float code(std::int64_t j, float z) const {
        return gain == nullptr ? z : gain[j] * (z - bias[j]) + offset[j];
    }
    STRATA_ELEMENT float open_code(std::int64_t j, float z) const {
        const float f = code(j, z);
        return active(j, z) && f > 0 ? f : 0.0F;
    }
    // Whether a set takes the pair, masks aside, and as what.
    STRATA_ELEMENT bool takes(CodeSet set, std::int64_t j, float z) const {
        if (set == CodeSet::window) return in_window(j, z);
        return active(j, z) && (set == CodeSet::gate || code(j, z) > 0);
    }
    STRATA_ELEMENT float value(CodeSet set, std::int64_t j, float z) const {
        return set == CodeSet::window || set == CodeSet::gate ? z : code(j, z);
    }
};

// See Device::observe(): `gradient` is scale R . d, `square` the last term without its sign; `out`: masked.
STRATA_ELEMENT float change_without(float f, float gradient, float scale, float square, bool out) {
    return -2 * f * gradient / scale + (out ? -square : square);
}

// Sums by latent of Device::dense(), [dense_sums, M].
enum DenseSum {
    main_count,
    main_value,
    main_gradient,
    main_both,
    observed_count,
    observed_value,
    observed_gradient,
    window_count,
    window_gradient,
    gate_count,
    gate_value,
    gate_gradient,
    encoder_gradient,
    dense_sums
};

// A pair of dense().
struct DensePair {
    float z, code;
    float gradient;       // dL/df
    const float* frozen;  // dL/df of a frozen gate, else null
    bool out;             // masked
};

// dL/dz of the pair; add(DenseSum, double) takes what it adds to the sums of its latent. square_weight: [M]
// of observe(), read where the gate's observed codes are wanted.
template <typename Add>
STRATA_ELEMENT float backprop_pair(const GateView& gate, std::int64_t j, const DensePair& p,
                                   const float* square_weight, float scale, const Add& add) {
    const bool active = gate.active(j, p.z);
    if (gate.observe && active) {
        const float f = gate.code(j, p.z);
        if (f > 0) {
            add(observed_count, 1);
            add(observed_value, f);
            add(observed_gradient, change_without(f, p.gradient, scale, square_weight[j] * f * f, p.out));
        }
    }
    if (gate.window > 0 && p.z > 0 && !p.out && gate.in_window(j, p.z)) {
        add(window_count, 1);
        add(window_gradient, p.gradient);
    }
    float dz = 0;
    if (p.code > 0) {
        add(main_count, 1);
        add(main_value, p.code);
        add(main_gradient, p.gradient);
        add(main_both, static_cast<double>(p.code) * p.gradient);
        dz = gate.gain == nullptr ? p.gradient : gate.gain[j] * p.gradient;
    }
    if (active && !p.out) {
        const float penalty = gate.penalty == nullptr ? 0.0F : gate.penalty[j];
        dz += penalty;
        if (p.frozen != nullptr) {
            dz += *p.frozen;
            add(gate_count, 1);
            add(gate_value, p.z);
            add(gate_gradient, *p.frozen + penalty);
        }
    }
    add(encoder_gradient, dz);
    return dz;
}

// What dense() reports of sums over rows, where the error of the frozen reconstruction stands in the place of
// l1, and of sums by latent [dense_sums, M].
DenseReport dense_report(const DecodeSums& rows, std::span<const double> by_latent, std::int64_t width);

}  // namespace strata::device
