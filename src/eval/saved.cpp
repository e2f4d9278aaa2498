#include "eval/saved.h"

#include <numeric>

namespace strata::eval {

UsableSae upload(device::Device& device, const saelens::SavedSae& saved) {
    UsableSae sae;
    device::Shape shape;
    shape.n = saved.n;
    shape.width = saved.width;
    sae.parameters = device::make_tensors(device, shape);
    sae.k = saved.k;
    sae.row_top = saved.architecture == "topk";
    if (!sae.row_top) {
        sae.thresholds = saved.threshold;
        sae.thresholds.resize(static_cast<std::size_t>(saved.width), 0.0F);  // plain ReLU: z > 0
    }
    std::vector<float> b_enc = saved.b_enc;
    if (!saved.apply_b_dec_to_input)
        for (std::size_t j = 0; j < b_enc.size(); ++j)
            b_enc[j] = static_cast<float>(std::inner_product(
                saved.b_dec.begin(), saved.b_dec.end(),
                saved.w_enc.begin() + std::ssize(saved.b_dec) * static_cast<std::ptrdiff_t>(j),
                static_cast<double>(b_enc[j])));
    const auto put = [&](const std::vector<float>& values, const device::Memory<float>& to) {
        device.upload(std::as_bytes(std::span(values)), to.data());
    };
    put(saved.w_enc, sae.parameters.w_enc);
    put(saved.w_dec, sae.parameters.w_dec);
    put(b_enc, sae.parameters.b_enc);
    put(saved.b_dec, sae.parameters.b_dec);
    return sae;
}

}  // namespace strata::eval
