#pragma once
// SAE kinds. A kind is a screen, a rule and a penalty; everything else of a step is shared. There are two
// sorts: selection kinds compare pairs with each other (the largest of a row, of the batch), elementwise
// kinds look at one pre-activation at a time. Adding one takes its file, its line in kinds.cpp and its test.

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "device/device.h"

namespace strata::sae {

// What a selection may look at and what it remembers between batches.
struct Selecting {
    device::Device& device;
    Communicator& comm;  // the ranks whose rows are selected from together
    DeviceSums* sums;    // of the same ranks; null where the device's memory is the host's, or for one rank
    const device::Tensors& parameters;
    const SaeConfig& config;
    std::int64_t rows = 0;        // of the global batch
    std::int64_t local_rows = 0;  // of this rank
    float& guess;                 // where the rule expects its threshold; speed only, never the result
    float& margin;                // how far below the last threshold the guess stands, relative; likewise
    bool masked = false;          // the device has a mask
    bool mask_first = true;       // masked pairs do not compete; else they are taken from what was selected
};

// Arrays of a device::Gate, [M] each; `threshold` is always there.
struct Rule {
    std::vector<float> threshold, gain, offset, penalty;
    float window = 0;
    bool frozen = false;
    std::vector<float> shrink;  // of device::accumulate()
    device::Gate gate() const { return {threshold, gain, offset, window, penalty, frozen}; }
};

// What an elementwise kind sees of a step. All lengths and coefficients in the units of the scaled rows.
struct Moment {
    const SaeConfig& config;
    const device::Tensors& parameters;
    std::span<const float> own;            // [per_latent, M] the kind's parameters, in host memory
    std::span<const float> decoder_norms;  // [M] |d_j| where decoder rows are free, else empty
    double unit = 1;        // sqrt(E|x|^2), what a coefficient with the unit of x is multiplied by
    double ramp = 1;        // of the penalty
    std::int64_t rows = 0;  // of the global batch
    double spread = 1;      // at the start: sqrt(E|x - b_dec|^2)
};

// Sums over all rows of the global batch that penalties depend on.
struct BatchSums {
    double active = 0;          // codes
    std::vector<double> count;  // [M] codes by latent; filled only where the kind asks (counts_latents)
};

// This rank's part of what the kind's own parameters learn from.
struct OwnSums {
    const device::LatentSums& main;    // of dL/df
    const device::LatentSums& window;  // pairs in the straight-through kernel
    const device::LatentSums& gate;    // gated: dL/dz without what comes through the codes
};

// What is applied to pre-activations z when an SAE is used, after training.
enum class Inference {
    row_top,    // the k largest positive z of a row
    threshold,  // z > threshold, one calibrated number for all latents
    own,        // the elementwise rule itself
};

struct Kind {
    std::string_view name;
    Inference inference;

    // Selection kinds: leaves the main codes of the batch in the device and, with a mask, the observed codes
    // of the rule without it. Returns the smallest value that could have been selected (batch rules), or 0.
    float (*select)(const Selecting& s) = nullptr;

    // Elementwise kinds.
    std::int64_t per_latent = 0;  // own parameters of a latent
    void (*start)(const Moment& at, std::span<const float> b_enc, std::span<float> own) = nullptr;
    Rule (*rule)(const Moment& at) = nullptr;
    // The penalty's part of the loss, from sums over the whole batch: codes, their l1 with decoder norms
    // where rows are free, frozen error.
    double (*penalty)(const Moment& at, const BatchSums& sums, double l1, double frozen_error) = nullptr;
    bool (*counts_latents)(const SaeConfig& config) = nullptr;
    // This rank's part of the gradient of the own parameters; may correct that of b_enc. [per_latent, M],
    // [M].
    void (*own_gradient)(const Moment& at, const BatchSums& batch, const OwnSums& sums,
                         std::span<float> gradient, std::span<float> b_enc) = nullptr;
    // Multiplies the thresholds of some latents by `factor` < 1, which more rows pass then.
    void (*lower)(const Moment& at, std::span<const std::uint32_t> latents, double factor,
                  std::span<float> own, std::span<float> b_enc) = nullptr;
    void (*constrain)(const Moment& at, std::span<float> own) = nullptr;  // after the optimiser
    // The rule as JumpReLU on the saved weights: scales rows of w_enc, sets b_enc and the thresholds, host
    // memory.
    void (*fold)(const Moment& at, std::span<float> w_enc, std::span<float> b_enc,
                 std::span<float> threshold) = nullptr;

    // The opposite, for training that starts from a saved SAE: own parameters from thresholds.
    void (*unfold)(const Moment& at, std::span<const float> threshold, std::span<float> b_enc,
                   std::span<float> own) = nullptr;

    bool elementwise() const { return rule != nullptr; }
};

// The largest density (train::TrainedSae) at which lists are made: about where dense products cost as much
// (docs/methods.md). Lists gather rows of W_dec, which cost more where a matrix does not stay in the last
// cache; a frozen reconstruction makes dense products dearer. A function of the shape alone, never of a
// clock: the two round differently.
inline double dense_share(const device::Shape& shape, bool frozen) {
    const std::int64_t bytes = 4 * shape.n * shape.width, mib = std::int64_t{1} << 20;
    const double share = bytes <= 24 * mib ? 0.30 : bytes <= 64 * mib ? 0.23 : 0.15;
    return share * (frozen ? 1.2 : 1);
}
// The pairs that the lists of a range of rows may hold, about 230 MB.
inline constexpr std::int64_t most_list_pairs = std::int64_t{1} << 22;

std::span<const Kind> kinds();

// The kind must exist (load_config has checked).
const Kind& kind_of(std::string_view name);

// Kind::lower of kinds whose pairs are active where u = (x - b_dec) w_j > -b_enc.
void lower_thresholds_of_u(const Moment& at, std::span<const std::uint32_t> latents, double factor,
                           std::span<float> own, std::span<float> b_enc);

// Number of codes that a batch rule selects among `rows` rows: k * rows rounded to the nearest integer,
// halves up.
std::int64_t codes_of_batch(double k, std::int64_t rows);

// One per file.
extern const Kind relu;
extern const Kind topk;
extern const Kind batch_topk;
extern const Kind jumprelu;
extern const Kind gated;
extern const Kind matryoshka;

}  // namespace strata::sae
