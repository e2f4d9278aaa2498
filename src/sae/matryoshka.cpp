// Matryoshka SAE (Bussmann et al., arXiv 2503.17547): BatchTopK's one selection over all latents; the loss is
// the sum of the errors of reconstructions from nested prefixes of the latents, which Shape::prefixes brings
// about.

#include "sae/kind.h"

namespace strata::sae {

const Kind matryoshka = {.name = "matryoshka",
                         .inference = Inference::threshold,
                         .select = [](const Selecting& s) { return batch_topk.select(s); }};

}  // namespace strata::sae
