#pragma once
// A saved SAE on the device, as it is used: raw rows in, raw rows out.

#include "device/device.h"
#include "formats/saelens.h"

namespace strata::eval {

struct UsableSae {
    device::Tensors parameters;
    bool row_top = false;  // the k largest of a row; else z > threshold
    std::int64_t k = 0;
    std::vector<float> thresholds;  // [M]
};

// Formats that do not subtract b_dec from the input have it moved into b_enc, which is the same function.
UsableSae upload(device::Device& device, const saelens::SavedSae& saved);

}  // namespace strata::eval
