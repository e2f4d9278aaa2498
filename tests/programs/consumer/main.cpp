#include <strata/sae.h>

#include <cstdio>
#include <vector>

int main(int, char** argv) {
    const strata::Sae sae = strata::load_sae(argv[1]);
    std::vector<float> rows(4 * static_cast<std::size_t>(sae.n()), 0.5F);
    const strata::Codes codes = sae.encode(rows);
    const std::vector<float> x_hat = sae.decode(codes);
    std::printf("%zu active codes, %zu values\n", codes.latent.size(), x_hat.size());
    return x_hat.size() == rows.size() ? 0 : 1;
}
