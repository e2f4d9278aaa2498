#pragma once
// An SAE's parameters: how they begin and how they leave.
//   z = (x - b_dec) W_enc + b_enc,   f = rule(z),   x_hat = f W_dec + b_dec        (methods: docs/methods.md)

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "device/device.h"
#include "sae/kind.h"

namespace strata::sae {

// The tensors of an SAE on rows of n, as its configuration wants them.
device::Shape shape_of(const SaeConfig& config, std::int64_t n, bool transcoder);

// The auxiliary codes of a row: as configured, or min(512, n / 2, width); 0 for kinds that select nothing.
std::int64_t auxiliary_codes(const SaeConfig& config, std::int64_t n);

// Rows of silence after which a latent is dead: as configured, or 1/32 of the run's `tokens`, at most 1e7.
std::uint64_t dead_after(const SaeConfig& config, std::int64_t tokens);

// Where encoders and thresholds begin. A row's pre-activations by random unit directions are normally
// distributed with variance |x - b_dec|^2 / n. The largest L of M, those above t standard deviations, give
//   x_hat - b_dec = c S (x - b_dec) + noise of squared length c^2 S |x - b_dec|^2
//   S = M/n E[g^2; g > t],   g standard normal
// where encoder rows are c times those of the decoder, of unit length. That is nearest to the row with
// c = 1 / (1 + S): at c = 1 a wide SAE begins with an error of many times the row. Decoder rows of length v
// reconstruct v^2 of it.
struct Beginning {
    double encoder_norm = 1;  // of a row of the encoder; with free decoder rows as part of those
    double theta = 0;         // jumprelu: t c / sqrt(n), to be multiplied by sqrt(E|x - b_dec|^2)
};

// Where encoders begin: W_enc = `norm` map W_dec^T, b_enc = `norm` W_dec offset. An SAE's map is the
// identity. Inputs and targets of a transcoder have directions of their own; where a map [n, n] is given,
// targets are near x map + offset + b_dec, and pre-activations begin as those of an SAE of these estimates
// would. Without one its encoder begins in random directions.
struct Encoding {
    double norm = 1;
    std::span<const float> map = {}, offset = {};
};

// As configured, or with L codes of a row: k; of jumprelu l0_target, or 64 where none is set; of relu and
// gated the positive half of the width. `encoder_norm` is at most 1, as it is in transcoders whose encoder
// begins in directions of its own.
Beginning beginning_of(const SaeConfig& config, const device::Shape& shape);

// Whether the encoder begins by the linear map to the targets (data/fit.h).
bool begins_fitted(const SaeConfig& config, bool transcoder);

// Width of jumprelu's window, with E|x|^2 = 1: as configured, or 0.02 up to 2304 latents, and 46/M above.
// Pre-activations lie as dense at the thresholds of wide SAEs as of narrow ones, so that a row has as many
// pairs in its window at any width.
double bandwidth_of(const SaeConfig& config);

// Fills `t`: decoder rows random directions of unit norm (of 0.1 where rows are free), a row a function of
// the seed and its index only; W_enc and b_enc as `encoding` tells; b_dec as given, [n]. The kind's own
// parameters are its affair. Only the latents [first, last) of the two matrices are written.
void initialise(device::Device& device, device::Tensors& t, std::uint64_t seed, std::span<const float> b_dec,
                const Encoding& encoding, std::int64_t first, std::int64_t last);

// The rule of inference of an SAE as it is saved: `k` for row_top, `thresholds` [M] for the others. Leaves
// the main codes of the present batch.
void apply_inference(device::Device& device, const device::Tensors& t, bool row_top, std::int64_t k,
                     std::span<const float> thresholds);

// A tensor's values in host memory.
std::vector<float> host_copy(device::Device& device, const device::Memory<float>& values);

}  // namespace strata::sae
