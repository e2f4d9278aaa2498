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

// Fills `t`: decoder rows random directions of unit norm (a row is a function of the seed and its index
// only), W_enc = W_dec^T, b_enc = 0, b_dec as given, [n].
void initialise(device::Device& device, device::Tensors& t, std::uint64_t seed, std::span<const float> b_dec);

// Leaves the main codes of the present batch by the rule of inference: `k` for row_top, `thresholds` [M] for
// threshold.
void apply_inference(device::Device& device, const device::Tensors& t, Inference rule, std::int64_t k,
                     std::span<const float> thresholds);

// A tensor's values in host memory.
std::vector<float> host_copy(device::Device& device, const device::Memory<float>& values);

}  // namespace strata::sae
