#pragma once
// What the verbs of a step (device.h) take and give. Shapes are named there.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/element.h"

namespace strata::device {

// Device memory that a device allocated; freed with it. Zeroed when made.
template <typename T>
struct Memory {
    std::unique_ptr<T[], std::function<void(T*)>> owner;
    std::size_t size = 0;
    T* data() const { return owner.get(); }
    std::span<T> span() const { return {owner.get(), size}; }
};

// Latents or rows [first, last).
struct Slice {
    std::int64_t first = 0, last = 0;
};
// The part of `whole` with this number out of so many about equal ones.
inline Slice part_of(Slice whole, int part, int parts) {
    const std::int64_t size = whole.last - whole.first;
    return {whole.first + size * part / parts, whole.first + size * (part + 1) / parts};
}

// What an SAE's tensors look like and how they are used.
struct Shape {
    std::int64_t n = 0, width = 0;
    std::int64_t per_latent = 0;  // parameters of a latent that belong to the kind
    bool skip = false;            // an affine path x W_skip from input to output
    bool transcoder = false;      // reconstructs another row than it sees; b_dec is not subtracted from x
    bool unit_rows = true;        // decoder rows are kept at unit norm
    std::vector<std::int64_t>
        prefixes{};  // cumulative ends of the latents' groups, the last = width; empty: one group
    // e_1 < ... < e_G: x_hat^(g) uses the latents below e_g.
    std::int64_t groups() const { return prefixes.empty() ? 1 : std::ssize(prefixes); }
    std::int64_t group_end(std::int64_t g) const {
        return prefixes.empty() ? width : prefixes[static_cast<std::size_t>(g)];
    }
};

// An SAE's parameters, or their gradients, or a moment of those, in device memory.
struct Tensors : Shape {
    Memory<float> w_enc;   // [M, n], or of moments the rows of some latents alone
    Memory<float> w_dec;   // as w_enc
    Memory<float> b_enc;   // [M]
    Memory<float> b_dec;   // [n]
    Memory<float> latent;  // [per_latent, M]
    Memory<float> w_skip;  // [n, n], input by output; empty without skip
    // What the device's encoder made of w_enc beside it, Device::encoder_bytes() of them, shared by the ranks
    // that share w_enc; or empty: then it is made at every step.
    Memory<std::byte> encoder;
    std::int64_t first = 0;  // the latent of the matrices' first row

    // A latent's rows of the matrices.
    float* enc(std::int64_t latent) const { return w_enc.data() + (latent - first) * n; }
    float* dec(std::int64_t latent) const { return w_dec.data() + (latent - first) * n; }

    // All but the two matrices by latent. Every rank holds them and changes them alike.
    std::array<std::span<float>, 4> small() const;
};

// Ranges of rows begin at multiples of it: whole tiles of every screened product.
inline constexpr std::int64_t range_rows = 12;
inline std::int64_t up_to_range(std::int64_t rows) {
    return (rows + range_rows - 1) / range_rows * range_rows;
}

// The sets of codes that a step may hold.
enum class CodeSet {
    main,       // what is decoded
    auxiliary,  // of dead latents, decoded to the error of main
    observed,   // what the rule takes without masks
    window,     // pairs within the straight-through kernel
    gate,       // gated: ReLU of the gate's pre-activation
};
inline constexpr std::size_t code_sets = 5;

// Room for a batch on its way to a device whose memory is not the host's: in host memory as files have it,
// then in the device's. It takes one batch after another.
class Parcel {
  public:
    virtual ~Parcel() = default;
    // Host memory to be filled with [rows, n] elements of their types, but not between send() and wait().
    // `target` is empty where x is to be reconstructed.
    virtual std::span<std::byte> x() const = 0;
    virtual std::span<std::byte> target() const = 0;
    // Begins to copy the first `count` rows, which the device multiplies by `scale`; beside the work that the
    // device has, but behind all that it was asked to do with the rows before, and with which it is to be
    // done: they are gone then. From any thread, as wait().
    virtual void send(std::int64_t count, float scale) = 0;
    // Returns when what was sent last has left host memory.
    virtual void wait() = 0;
};
struct ParcelShape {
    std::int64_t rows = 0, n = 0;
    Element x = Element::float32;
    std::optional<Element> target = {};
};

// The rows of a batch, [count, n]: in host memory, or what was last sent in a parcel. `target` is empty where
// x is to be reconstructed, or where a parcel has it.
struct Rows {
    std::span<const float> x;
    std::int64_t count = 0;
    std::span<const float> target = {};
    std::uint64_t number = 0;  // rows of an equal number, not 0, are equal: what is made of them serves again
    const Parcel* parcel = nullptr;
};

// Pairs (row, latent) that are left out of a step: those with draw_b < probability_j.
struct Mask {
    std::span<const float> draw;         // [B] of this rank's rows
    std::span<const float> probability;  // [M]
    bool empty() const { return probability.empty(); }
};

// What decode() sees, summed over this rank's rows.
struct DecodeSums {
    double squared_error = 0;  // sum of |x_hat - y|^2
    double prefix_error = 0;   // the same summed over all prefixes, the whole width among them
    double l1 = 0;             // sum of |f|
    double cosine = 0;         // sum over rows of cos(y, x_hat), uncentred y; 0 where either is zero
    double inner = 0;          // sum of x_hat . y
    double x_hat_square = 0;   // sum of |x_hat|^2
    std::uint64_t active = 0;  // codes > 0

    DecodeSums& operator+=(const DecodeSums& other);
};

// Sums over this rank's codes of a set, by latent, [M] each.
struct LatentSums {
    std::vector<double> count, value, gradient, value_gradient;
    void reset(std::int64_t width);
};

// A rule that looks at one pre-activation at a time. A pair is active where z > threshold_j (and z > 0); its
// code is
//   f = z,   or   max(0, gain_j (z - b_enc_j) + offset_j)   where gain is given.
// All arrays are [M] in host memory.
struct Gate {
    std::span<const float> threshold;
    std::span<const float> gain, offset;  // empty: f = z
    float window = 0;                     // width of the kernel around the threshold; 0: none
    std::span<const float> penalty;       // added to dL/dz of active pairs; empty: none
    // Gated: z is the gate. dL/dz of active pairs is `penalty` plus the gradient of
    // gradient_scale/2 |ReLU(z) W_dec + b_dec - y|^2 with W_dec and b_dec constant.
    bool frozen = false;
    bool observe = false;  // dense(): the sums of the observed codes are wanted
};

// What dense() leaves behind beside the gradient.
struct DenseReport {
    DecodeSums sums;
    double frozen_error = 0;  // sum of |ReLU(z) W_dec + b_dec - y|^2
    LatentSums main;          // codes after masks
    LatentSums observed;      // before masks; `gradient` holds the changes of observe()
    LatentSums window;        // count and gradient
    LatentSums gate;  // of a frozen gate: its codes, and dL/dz without what comes through the main codes
};

// How a set's codes take part in accumulate(): dL/dz_j = gain_j dL/df + shift_j.
struct SetUse {
    CodeSet set = CodeSet::main;
    std::span<const float> gain{}, shift{};  // [M] in host memory; empty: 1, 0
    bool decoder = true;                     // its values reach W_dec and b_dec
};

// One step of the optimiser on gradient g, already times gradient_scale.
//   adam                  m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  w -= lr (m / c1) / (sqrt(v / c2)
//   + epsilon)
// Schedule-free averaging (Defazio et al., arXiv 2405.15682) keeps z beside the point w at which gradients
// are taken:
//   w += c (z - w) - lr (1 - b1 (1 - c)) u,   z -= lr u
//   adam_schedule_free    u = g / (sqrt(v / c2) + epsilon)
//   signum                u = sign(g); v is not used
// The first moment holds m, or z.
struct OptimizerStep {
    enum class Kind { adam, adam_schedule_free, signum } kind = Kind::adam;
    float lr = 0;
    float beta1 = 0.9F, beta2 = 0.999F, epsilon = 1e-8F;
    float correction1 = 1, correction2 = 1;  // c1, c2: 1 - beta^t
    float gradient_scale = 1;                // clipping
    float average = 1;                       // c, weight of z in the average
};

}  // namespace strata::device
