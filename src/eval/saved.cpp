#include "eval/saved.h"

namespace strata::eval {

UsableSae upload(device::Device& device, const saelens::SavedSae& saved) {
    UsableSae sae;
    device::Shape shape;
    shape.n = saved.n;
    shape.width = saved.width;
    shape.transcoder = saved.transcoder;
    shape.skip = !saved.w_skip.empty();
    sae.parameters = device::make_tensors(device, shape);
    sae.k = saved.k;
    sae.row_top = saved.architecture == "topk";
    if (!sae.row_top) {
        sae.thresholds = saved.threshold;
        sae.thresholds.resize(static_cast<std::size_t>(saved.width), 0.0F);  // plain ReLU: z > 0
    }
    saelens::SavedSae centred;  // its b_enc, where that is another one
    const bool moves = !saved.apply_b_dec_to_input && !saved.transcoder;
    if (moves) {
        centred = saved;
        saelens::subtract_from_input(centred);
    }
    const auto put = [&](const std::vector<float>& values, const device::Memory<float>& to) {
        device.upload(std::as_bytes(std::span(values)), to.data());
    };
    put(saved.w_enc, sae.parameters.w_enc);
    put(saved.w_dec, sae.parameters.w_dec);
    put(moves ? centred.b_enc : saved.b_enc, sae.parameters.b_enc);
    put(saved.b_dec, sae.parameters.b_dec);
    if (shape.skip) put(saved.w_skip, sae.parameters.w_skip);
    return sae;
}

}  // namespace strata::eval
