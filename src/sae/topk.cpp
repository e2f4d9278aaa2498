// TopK (Gao et al., arXiv 2406.04093): the k largest pre-activations of every row, ReLU on what is kept.
//   f_b = ReLU(top_k(z_b));  gradients flow through kept, positive entries only.

#include "sae/kind.h"

namespace strata::sae {
namespace {

float select(const Selecting& s) {
    const auto k = static_cast<std::int64_t>(s.config.k);
    s.device.screen_row_top(s.parameters, k, {});
    if (!s.masked) {
        s.device.keep(device::CodeSet::main, 0, 0, false);
        return 0;
    }
    s.device.keep_row_top(device::CodeSet::observed, k, false);
    if (s.mask_first)
        s.device.keep_row_top(device::CodeSet::main, k, true);
    else
        s.device.keep_unmasked(device::CodeSet::observed, device::CodeSet::main);
    return 0;
}

}  // namespace

const Kind topk = {.name = "topk", .inference = Inference::row_top, .select = select};

}  // namespace strata::sae
