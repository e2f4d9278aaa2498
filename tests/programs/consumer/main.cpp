// consumer CONFIG OUTPUT: trains; consumer SAE_FOLDER: uses an SAE.
#include <strata/sae.h>
#include <strata/train.h>

#include <cstdio>
#include <string>
#include <vector>

int main(int argc, char** argv) {
    if (argc == 3)
        return strata::run_training(argv[1], {std::string("run.output=") + argv[2]}, {.quiet = true});
    const strata::Sae sae = strata::load_sae(argv[1]);
    std::vector<float> rows(4 * static_cast<std::size_t>(sae.n()));
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = i % 3 == 0 ? 2.0F : -1.0F;
    const strata::Codes codes = sae.encode(rows);
    const std::vector<float> x_hat = sae.decode(codes);
    std::printf("%zu active codes, %zu values\n", codes.latent.size(), x_hat.size());
    return x_hat.size() == rows.size() && !codes.latent.empty() ? 0 : 1;
}
