#include "sae/sae.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "base/linear.h"
#include "base/random.h"

namespace strata::sae {

device::Shape shape_of(const SaeConfig& config, std::int64_t n, bool transcoder) {
    device::Shape shape;
    shape.n = n;
    shape.width = config.width;
    shape.per_latent = kind_of(config.kind).per_latent;
    shape.skip = config.skip;
    shape.transcoder = transcoder;
    shape.unit_rows = config.decoder == "unit";
    shape.prefixes = prefix_widths(config);
    return shape;
}

namespace {

// Random directions of length `norm`, those of the latents from `first` on; rows of n.
void fill_directions(std::uint64_t seed, Purpose purpose, std::int64_t first, float norm, std::int64_t n,
                     std::span<float> rows) {
    for (std::size_t begin = 0; begin < rows.size(); begin += static_cast<std::size_t>(n), ++first) {
        Random random(seed, purpose, static_cast<std::uint64_t>(first));
        const std::span<float> row = rows.subspan(begin, static_cast<std::size_t>(n));
        double square = 0;
        for (float& value : row) {
            value = random.normal();
            square += static_cast<double>(value) * value;
        }
        for (float& value : row) value = static_cast<float>(norm * value / std::sqrt(square));
    }
}

constexpr std::int64_t block_of_latents = 64;

// Rows [first, last) of a matrix [M, n] by fill(latent, rows), each call within one of the blocks of 64
// latents that begin at 0. Host memory is written in place, by the threads that will update it: its pages
// then lie with the processors that use them.
template <typename Fill>
void fill_rows(device::Device& device, const device::Memory<float>& matrix, std::int64_t n,
               std::int64_t first, std::int64_t last, const Fill& fill) {
    const bool in_place = device.host_memory();
    const std::int64_t most = in_place ? std::max<std::int64_t>(1, last - first) : 16 * block_of_latents;
    std::vector<float> staged(in_place ? 0 : static_cast<std::size_t>(most * n));
    for (std::int64_t begin = first; begin < last; begin += most) {
        const std::int64_t end = std::min(begin + most, last);
        float* rows = in_place ? matrix.data() + begin * n : staged.data();
#pragma omp parallel for schedule(static)
        for (std::int64_t block = begin / block_of_latents; block <= (end - 1) / block_of_latents; ++block) {
            const std::int64_t from = std::max(begin, block * block_of_latents);
            const std::int64_t to = std::min(end, (block + 1) * block_of_latents);
            fill(from, std::span(rows + (from - begin) * n, static_cast<std::size_t>((to - from) * n)));
        }
        const std::span<const float> filled(rows, static_cast<std::size_t>((end - begin) * n));
        if (!in_place) device.upload(std::as_bytes(filled), matrix.data() + begin * n);
    }
}

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// norm rows map^T, by one thread.
std::vector<float> mapped(std::span<const float> map, double norm, std::int64_t n,
                          std::span<const float> rows) {
    std::vector<float> result(rows.size());
    Eigen::Map<Matrix>(result.data(), std::ssize(rows) / n, n).noalias() =
        static_cast<float>(norm) * Eigen::Map<const Matrix>(rows.data(), std::ssize(rows) / n, n) *
        Eigen::Map<const Matrix>(map.data(), n, n).transpose();
    return result;
}

}  // namespace

std::int64_t auxiliary_codes(const SaeConfig& config, std::int64_t n) {
    if (kind_of(config.kind).elementwise()) return 0;
    return config.aux_k.value_or(std::min({std::int64_t{512}, n / 2, config.width}));
}

std::uint64_t dead_after(const SaeConfig& config, std::int64_t tokens) {
    return static_cast<std::uint64_t>(
        config.dead_after_tokens.value_or(std::clamp<std::int64_t>(tokens / 32, 1, 10'000'000)));
}

namespace {

// The share of a standard normal distribution above t.
double normal_tail(double t) {
    return std::erfc(t / std::numbers::sqrt2) / 2;
}

// Where that share is `share`, at most 1/2.
double normal_quantile(double share) {
    double low = 0, high = 40;
    for (int i = 0; i < 60; ++i) {
        const double t = (low + high) / 2;
        (normal_tail(t) > share ? low : high) = t;
    }
    return low;
}

// Of a decoder row at the start.
double decoder_norm(const device::Shape& shape) {
    return shape.unit_rows ? 1 : 0.1;
}

}  // namespace

Beginning beginning_of(const SaeConfig& config, const device::Shape& shape) {
    const auto n = static_cast<double>(shape.n), width = static_cast<double>(shape.width);
    double codes = width;  // as many as are positive
    if (!kind_of(config.kind).elementwise()) codes = config.k;
    if (config.kind == "jumprelu") codes = config.l0_target.value_or(64);
    const double share = std::min(0.5, codes / width);
    const double t = normal_quantile(share);
    const double density = std::exp(-t * t / 2) / std::sqrt(2 * std::numbers::pi);
    const double reconstructed = width / n * (t * density + share);  // S
    const double least = 1 / ((1 + reconstructed) * decoder_norm(shape) * decoder_norm(shape));
    Beginning begin;
    const bool own_directions = shape.transcoder && config.encoder_init == "random";
    begin.encoder_norm = config.encoder_norm.value_or(own_directions ? 1 : std::min(1.0, least));
    begin.theta = t * begin.encoder_norm / std::sqrt(n);
    return begin;
}

bool begins_fitted(const SaeConfig& config, bool transcoder) {
    return transcoder && config.encoder_init == "fit" && config.init_from.empty();
}

double bandwidth_of(const SaeConfig& config) {
    return config.bandwidth.value_or(0.02 * std::min(1.0, 2304 / static_cast<double>(config.width)));
}

void initialise(device::Device& device, device::Tensors& t, std::uint64_t seed, std::span<const float> b_dec,
                const Encoding& encoding, std::int64_t first, std::int64_t last) {
    const auto norm = static_cast<float>(decoder_norm(t));
    const auto decoder = [&](std::int64_t latent, std::span<float> rows) {
        fill_directions(seed, Purpose::initial_weights, latent, norm, t.n, rows);
    };
    fill_rows(device, t.w_dec, t.n, first, last, decoder);
    device.upload(std::as_bytes(b_dec), t.b_dec.data());
    if (encoding.map.empty()) {
        const Purpose of_encoder = t.transcoder ? Purpose::encoder_weights : Purpose::initial_weights;
        fill_rows(device, t.w_enc, t.n, first, last, [&](std::int64_t latent, std::span<float> rows) {
            fill_directions(seed, of_encoder, latent, norm * static_cast<float>(encoding.norm), t.n, rows);
        });
        return;
    }
    // The bits of a product depend on its shape. Those of a row are the same whatever the slice and the host:
    // products are of whole blocks.
    fix_block_sizes();
    fill_rows(device, t.w_enc, t.n, first, last, [&](std::int64_t latent, std::span<float> rows) {
        std::vector<float> block(static_cast<std::size_t>(block_of_latents * t.n));
        decoder(latent - latent % block_of_latents, block);
        block = mapped(encoding.map, encoding.norm, t.n, block);
        std::ranges::copy(
            std::span(block).subspan(static_cast<std::size_t>(latent % block_of_latents * t.n), rows.size()),
            rows.begin());
    });
    std::vector<float> b_enc(static_cast<std::size_t>(t.width));
#pragma omp parallel for schedule(static)
    for (std::int64_t j = 0; j < t.width; ++j) {
        std::vector<float> row(static_cast<std::size_t>(t.n));
        decoder(j, row);
        b_enc[static_cast<std::size_t>(j)] = static_cast<float>(
            encoding.norm * std::inner_product(row.begin(), row.end(), encoding.offset.begin(), 0.0));
    }
    device.upload(std::as_bytes(std::span(b_enc)), t.b_enc.data());
}

void apply_inference(device::Device& device, const device::Tensors& t, bool row_top, std::int64_t k,
                     std::span<const float> thresholds) {
    if (row_top) {
        device.screen_row_top(t, k, {});
        device.keep(device::CodeSet::main, 0, 0, false);
        return;
    }
    device.screen_above(t, thresholds, 0);
    device::Gate gate;
    gate.threshold = thresholds;
    device.keep_gate(gate, t, false);
}

std::vector<float> host_copy(device::Device& device, const device::Memory<float>& values) {
    std::vector<float> copy(values.size);
    device.download(values.data(), std::as_writable_bytes(std::span(copy)));
    return copy;
}

}  // namespace strata::sae
