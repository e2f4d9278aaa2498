#pragma once
// What the reference computes on: the kinds, the tensors of an SAE, the rules of its training. Plain data.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace strata::reference {

enum class Kind { relu, topk, batch_topk, jumprelu, gated, matryoshka };
inline constexpr std::array<const char*, 6> kind_names = {"relu",     "topk",  "batch_topk",
                                                          "jumprelu", "gated", "matryoshka"};

inline const char* name_of(Kind kind) {
    return kind_names[static_cast<std::size_t>(kind)];
}

inline Kind kind_named(std::string_view name) {
    for (std::size_t i = 0; i < kind_names.size(); ++i)
        if (name == kind_names[i]) return static_cast<Kind>(i);
    throw std::invalid_argument("no kind of the reference: " + std::string(name));
}

// Kinds whose codes are the largest pre-activations of a row or a batch.
inline bool selects(Kind kind) {
    return kind == Kind::topk || kind == Kind::batch_topk || kind == Kind::matryoshka;
}

// Kinds whose pairs are active where x w_j passes -b_enc_j.
inline bool threshold_is_bias(Kind kind) {
    return kind == Kind::relu || kind == Kind::gated;
}

// Six tensors: parameters, a gradient, or a moment. W_enc and W_dec are [M, n]. `latent` has the kind's own:
// theta [M] or its logarithm (jumprelu), rho [M] then beta [M] (gated), else nothing. `skip` is [n, n], from
// input to output, or nothing.
template <typename T>
struct Sae {
    std::size_t n = 0, width = 0;
    std::vector<T> w_enc, w_dec, b_enc, b_dec, latent, skip;

    Sae() = default;
    Sae(std::size_t n_, std::size_t width_, std::size_t latents_own = 0, bool with_skip = false)
        : n(n_),
          width(width_),
          w_enc(n * width),
          w_dec(n * width),
          b_enc(width),
          b_dec(n),
          latent(latents_own),
          skip(with_skip ? n * n : 0) {}

    template <typename U>
    explicit Sae(const Sae<U>& other)
        : n(other.n),
          width(other.width),
          w_enc(other.w_enc.begin(), other.w_enc.end()),
          w_dec(other.w_dec.begin(), other.w_dec.end()),
          b_enc(other.b_enc.begin(), other.b_enc.end()),
          b_dec(other.b_dec.begin(), other.b_dec.end()),
          latent(other.latent.begin(), other.latent.end()),
          skip(other.skip.begin(), other.skip.end()) {}

    static constexpr int tensors = 6;
    static constexpr const char* names[] = {"W_enc", "W_dec", "b_enc", "b_dec", "latent", "W_skip"};
    std::vector<T>& tensor(int i) {
        std::vector<T>* all[] = {&w_enc, &w_dec, &b_enc, &b_dec, &latent, &skip};
        return *all[i];
    }
    const std::vector<T>& tensor(int i) const { return const_cast<Sae*>(this)->tensor(i); }

    const T* encoder(std::size_t j) const { return w_enc.data() + j * n; }
    const T* decoder(std::size_t j) const { return w_dec.data() + j * n; }
};

template <typename T>
Sae<T> zeros_like(const Sae<T>& sae) {
    return Sae<T>(sae.n, sae.width, sae.latent.size(), !sae.skip.empty());
}

// Rows of inputs and, for a transcoder, of targets; [B, n].
template <typename T>
struct Batch {
    std::size_t rows = 0;
    std::vector<T> x, target;  // target empty: an autoencoder

    bool transcodes() const { return !target.empty(); }
    const std::vector<T>& y() const { return target.empty() ? x : target; }
};

// Adaptive masking; the letters are those of docs/methods.md.
struct AtmRules {
    double decay = 0.99, c = 1, r = 0.5;
    std::int64_t start_step = 0, ramp_steps = 0;
    bool by_row = false;           // law: token; else latent
    bool before_selection = true;  // place: before; else after. Nothing to kinds that do not select
    bool geometric = false;        // combine: geometric; else mean
    std::array<double, 3> weights = {1, 1, 1};  // of magnitude, frequency, contribution
};

enum class Optimiser { adam, adam_schedule_free, signum };

struct AdamRates {
    double lr = 0, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
};

struct StepRules {
    Kind kind = Kind::batch_topk;

    // Selection.
    double k = 1;
    std::size_t row_cap = 0;             // codes, 0: none
    std::vector<std::size_t> rank_rows;  // threshold_scope: local; the rows of each rank. Empty: global

    // The forward pass.
    std::vector<std::size_t> prefixes;  // cumulative ends, the last M; empty: M alone
    bool unit_decoder = true;           // else free

    // Penalties, for E|x|^2 = 1; `mean_square` brings them to the unit of the rows.
    double l1 = 0;                                // relu, gated
    double l0 = 0;                                // jumprelu
    std::optional<double> l0_target;              // jumprelu
    double frequency = 0, frequency_limit = 0.1;  // jumprelu
    double bandwidth = 0.001;                     // jumprelu
    bool log_theta = false;                       // `latent` is log theta
    std::int64_t penalty_warmup = 0;              // steps
    double mean_square = 1;                       // E|x|^2

    // Latents that do not fire.
    std::size_t aux_k = 0;
    double aux_coefficient = 0;
    std::uint64_t dead_after = 0;     // rows
    double threshold_fall = 0;        // of relu, jumprelu, gated: halvings of a dead latent's threshold
    std::int64_t resample_every = 0;  // steps, 0: never

    std::optional<AtmRules> atm;

    double clip_norm = 0;  // 0: off
    Optimiser optimiser = Optimiser::adam;
    AdamRates rates;
};

// The lower edge of theta, in the unit of x at E|x|^2 = 1.
inline constexpr double theta_floor = 1e-6;
// |d_j| of a decoder row that is free, when it starts or starts again.
inline constexpr double free_decoder_norm = 0.1;

// Uniform numbers in [0, 1) that a step takes, so that the reference has no generator of its own.
struct Draws {
    std::vector<double> mask;      // law latent: [M]; law token: [B]
    std::vector<double> resample;  // [M]
};

template <typename T>
T square_of(const std::vector<T>& values) {
    T sum = 0;
    for (const T v : values) sum += v * v;
    return sum;
}

template <typename T>
T square_norm(const Sae<T>& t) {
    T sum = 0;
    for (int i = 0; i < Sae<T>::tensors; ++i) sum += square_of(t.tensor(i));
    return sum;
}

template <typename T>
T dot(const T* a, const T* b, std::size_t n) {
    T sum = 0;
    for (std::size_t c = 0; c < n; ++c) sum += a[c] * b[c];
    return sum;
}

template <typename T>
T norm_of(const T* a, std::size_t n) {
    return std::sqrt(dot(a, a, n));
}

// Scales every decoder row to unit length.
template <typename T>
void renormalise(Sae<T>& sae) {
    for (std::size_t j = 0; j < sae.width; ++j) {
        const T length = norm_of(sae.decoder(j), sae.n);
        if (length == 0) continue;
        for (std::size_t c = 0; c < sae.n; ++c) sae.w_dec[j * sae.n + c] /= length;
    }
}

// theta, whichever form is stored.
template <typename T>
std::vector<T> thetas(const Sae<T>& sae, const StepRules& rules) {
    std::vector<T> theta = sae.latent;
    if (rules.kind == Kind::jumprelu && rules.log_theta)
        for (T& v : theta) v = std::exp(v);
    return theta;
}

// Gives an SAE the parameters of its kind at their start.
template <typename T>
void start_latent(Sae<T>& sae, const StepRules& rules, double theta_init = 0.001) {
    sae.latent.clear();
    if (rules.kind == Kind::gated) sae.latent.assign(2 * sae.width, T{0});
    if (rules.kind != Kind::jumprelu) return;
    const double theta = std::sqrt(rules.mean_square) * theta_init;
    sae.latent.assign(sae.width, static_cast<T>(rules.log_theta ? std::log(theta) : theta));
}

// The ends of the prefixes.
inline std::vector<std::size_t> ends_of(const StepRules& rules, std::size_t width) {
    return rules.prefixes.empty() ? std::vector<std::size_t>{width} : rules.prefixes;
}

// The first prefix that contains latent j.
inline std::size_t group_of(const std::vector<std::size_t>& ends, std::size_t j) {
    std::size_t g = 0;
    while (ends[g] <= j) ++g;
    return g;
}

}  // namespace strata::reference
