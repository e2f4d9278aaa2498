// TopK (Gao et al., arXiv 2406.04093): the k largest pre-activations of every row, ReLU on what is kept.
//   f_b = ReLU(top_k(z_b));  gradients flow through kept, positive entries only.

#include "sae/kind.h"

namespace strata::sae {
namespace {

float select(const Selecting& s) {
    s.device.screen_row_top(s.parameters, static_cast<std::int64_t>(s.config.k), {});
    s.device.keep(device::CodeSet::main, 0, 0);
    return 0;
}

}  // namespace

const Kind topk = {"topk", select, Inference::row_top};

}  // namespace strata::sae
