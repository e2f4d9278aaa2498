#pragma once
// Using a saved SAE from C++: load, encode, decode.
//   z = (x - b_dec) W_enc + b_enc,   f = z where z > threshold (or the k largest),   x_hat = f W_dec + b_dec
// Rows are raw activations (the training scale is folded into the saved weights), row-major [rows, n]
// float32.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace strata {

// Codes of some rows, by row: those of row b are [begin[b], begin[b + 1]), latents ascending.
struct Codes {
    std::vector<std::uint32_t> begin;
    std::vector<std::uint32_t> latent;
    std::vector<float> value;  // > 0
};

// Movable. Not for several threads at once.
class Sae {
  public:
    std::int64_t n() const;      // input width
    std::int64_t width() const;  // latents

    // std::runtime_error if the number of values is no multiple of n.
    Codes encode(std::span<const float> rows) const;

    // [rows, n]. A transcoder with a skip connection also needs the rows that were encoded.
    std::vector<float> decode(const Codes& codes, std::span<const float> rows = {}) const;

    Sae(Sae&&) noexcept;
    Sae& operator=(Sae&&) noexcept;
    ~Sae();

  private:
    friend Sae load_sae(const std::string& folder);
    struct State;
    explicit Sae(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

// A SAELens folder (cfg.json, sae_weights.safetensors) of architecture jumprelu, topk or standard, or a
// transcoder of these rules. std::runtime_error naming file and key or tensor.
Sae load_sae(const std::string& folder);

}  // namespace strata
