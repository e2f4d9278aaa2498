#pragma once
// SAELens folders: cfg.json and sae_weights.safetensors. BatchTopK is no class of its own there: with its threshold
// calibrated it is a JumpReLU SAE with one threshold for all latents.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace strata::formats {

struct SavedSae {
    std::string architecture;  // jumprelu | topk | standard
    std::int64_t n = 0, width = 0;
    std::int64_t k = 0;            // topk
    std::vector<float> w_enc;      // [M, n], a row per latent (on disk [n, M])
    std::vector<float> b_enc;      // [M]
    std::vector<float> w_dec;      // [M, n]
    std::vector<float> b_dec;      // [n]
    std::vector<float> threshold;  // [M], jumprelu: f = z where z > threshold
    bool apply_b_dec_to_input = true;
    nlohmann::json metadata = nlohmann::json::object();
};

// Makes the folder, whole or not at all; it must not exist.
void write_saelens(const std::filesystem::path& folder, const SavedSae& sae);

// RunError naming file and key or tensor. Only files that need no further step at inference can be read:
// normalize_activations and reshape_activations must be "none".
SavedSae read_saelens(const std::filesystem::path& folder);

// An SAE that was trained on scale * x becomes one for x. With unit decoder rows in both, W_enc and W_dec stay and
// b_enc, b_dec and threshold are divided by the scale; the codes of x are those of scale * x divided by it.
void fold_scale(SavedSae& sae, double scale);

}  // namespace strata::formats
