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

// Fills `t`: decoder rows random directions of unit norm (of 0.1 where rows are free), a row a function of
// the seed and its index only; W_enc = W_dec^T, or, in a transcoder, other random directions; b_enc = 0,
// b_dec as given, [n]. The kind's own parameters are its affair. Only the latents [first, last) of the two
// matrices are written.
void initialise(device::Device& device, device::Tensors& t, std::uint64_t seed, std::span<const float> b_dec,
                std::int64_t first, std::int64_t last);

// The rule of inference of an SAE as it is saved: `k` for row_top, `thresholds` [M] for the others. Leaves
// the main codes of the present batch.
void apply_inference(device::Device& device, const device::Tensors& t, bool row_top, std::int64_t k,
                     std::span<const float> thresholds);

// A tensor's values in host memory.
std::vector<float> host_copy(device::Device& device, const device::Memory<float>& values);

}  // namespace strata::sae
