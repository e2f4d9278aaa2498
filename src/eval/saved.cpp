#include "eval/saved.h"

#include "device/cpu/kernels.h"

namespace strata::eval {

UsableSae upload(device::Device& device, const saelens::SavedSae& saved) {
    UsableSae sae;
    sae.parameters = device::make_tensors(device, saved.n, saved.width);
    sae.k = saved.k;
    sae.rule = saved.architecture == "topk" ? sae::Inference::row_top : sae::Inference::threshold;
    if (sae.rule == sae::Inference::threshold) {
        sae.thresholds = saved.threshold;
        sae.thresholds.resize(static_cast<std::size_t>(saved.width), 0.0F);  // plain ReLU: z > 0
    }
    std::vector<float> b_enc = saved.b_enc;
    if (!saved.apply_b_dec_to_input)
        for (std::size_t j = 0; j < b_enc.size(); ++j)
            b_enc[j] += device::kernels().dot(
                saved.b_dec.data(), saved.w_enc.data() + j * static_cast<std::size_t>(saved.n), saved.n);
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
