#pragma once
// Folders of SAELens: cfg.json and sae_weights.safetensors, as its SAE.load_from_disk reads them.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace strata::saelens {

// z = (x - b_dec if apply_b_dec_to_input else x) W_enc + b_enc, codes by architecture, x_hat = codes W_dec +
// b_dec.
// Transcoders reconstruct other rows than they read, x_hat = codes W_dec + b_dec + x W_skip; on disk their
// architecture has another name. SAELens has none with the topk rule.
struct SavedSae {
    std::string architecture;  // jumprelu: z where z > max(threshold, 0); topk: the k largest, positive;
                               // standard: relu
    bool transcoder = false;
    std::int64_t n = 0;            // numbers of an input
    std::int64_t width = 0;        // latents
    std::int64_t k = 0;            // topk
    std::vector<float> w_enc;      // [width, n]: a row for each latent; transposed on disk
    std::vector<float> b_enc;      // [width]
    std::vector<float> w_dec;      // [width, n]
    std::vector<float> b_dec;      // [n]
    std::vector<float> threshold;  // [width]; jumprelu
    std::vector<float> w_skip;     // [n, n], input by output, transposed on disk; empty: none; transcoders
    bool apply_b_dec_to_input = true;
    nlohmann::ordered_json metadata = nlohmann::ordered_json::object();  // where it comes from; free
};

// Makes `folder` whole or not at all: it is written as folder.tmp and renamed. UsageError if it exists;
// RunError if the tensors' sizes disagree or the disk fails. Takes a transposed copy of w_enc. metadata gains
// `sae_lens_version`, which the loader demands, where it has none.
void write(const std::filesystem::path& folder, const SavedSae& sae);

// RunError naming file, key or tensor, found and expected: other architectures, inputs that must be
// normalised or reshaped first, missing or unknown tensors, wrong shapes.
SavedSae read(const std::filesystem::path& folder);

// The same from cfg.json alone, without tensors; w_skip is not empty where there is one.
SavedSae describe(const std::filesystem::path& folder);

// Turns an SAE trained on scale * x with decoder rows of unit norm into one for x: W_enc (scale x) + b_enc is
// scale times W_enc x + b_enc / scale, so b_enc, b_dec and threshold are divided by scale, the weights stay,
// and the same latents are active with codes divided by scale.
void fold_scale(SavedSae& sae, double scale);

// The same function with b_dec subtracted from the input: b_enc gains b_dec W_enc.
void subtract_from_input(SavedSae& sae);

// Makes decoder rows unit: d_j / |d_j|, with W_enc, b_enc and threshold of the latent times |d_j|. Rows of
// zeros stay.
void fold_decoder_norms(SavedSae& sae);

}  // namespace strata::saelens
