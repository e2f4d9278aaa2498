#include "train/resample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "base/random.h"

namespace strata::train {
namespace {

// Writes a latent's rows of the matrices as far as they are this rank's; the small tensors every rank has.
void start_anew(Workbench& bench, TrainedSae& sae, bool averaging, std::uint32_t latent,
                std::span<const float> direction, float encoder_norm) {
    device::Device& device = bench.device;
    const auto n = static_cast<std::size_t>(sae.parameters.n);
    std::vector<float> row(n);
    const auto put = [&](device::Tensors& t, Slice mine, float encoder, float decoder) {
        if (latent < mine.first || latent >= mine.last) return;
        for (const auto& [factor, to] :
             {std::pair{encoder, t.enc(latent)}, std::pair{decoder, t.dec(latent)}}) {
            for (std::size_t c = 0; c < n; ++c) row[c] = factor * direction[c];
            device.upload(std::as_bytes(std::span(row)), to);
        }
    };
    const float decoder_norm = sae.parameters.unit_rows ? 1.0F : 0.1F;
    const Slice updated = bench.replicas.updated(sae.parameters.width);
    put(sae.parameters, bench.replicas.written(sae.parameters.width), encoder_norm, decoder_norm);
    put(sae.first, updated, averaging ? encoder_norm : 0.0F, averaging ? decoder_norm : 0.0F);
    put(sae.second, updated, 0, 0);
    constexpr float zero = 0;
    for (device::Tensors* t : {&sae.parameters, &sae.first, &sae.second}) {
        device.upload(std::as_bytes(std::span(&zero, 1)), t->b_enc.data() + latent);
        for (std::int64_t p = 0; p < t->per_latent; ++p)  // gated: its gain and bias
            device.upload(std::as_bytes(std::span(&zero, 1)), t->latent.data() + p * t->width + latent);
    }
    sae.silent[latent] = 0;
}

// The mean norm of the encoder's directions of the latents that are not silent; of all where all are.
double living_encoder_norm(Workbench& bench, const TrainedSae& sae, const std::vector<char>& is_silent) {
    const bool none = std::ranges::count(is_silent, 0) == 0;
    const Slice mine = bench.replicas.updated(sae.parameters.width);
    std::vector<float> norms(static_cast<std::size_t>(mine.last - mine.first));
    bench.device.row_norms(
        {sae.parameters.enc(mine.first), norms.size() * static_cast<std::size_t>(sae.parameters.n)}, norms);
    std::array<double, 2> sums = {0, 0};
    for (std::int64_t j = mine.first; j < mine.last; ++j) {
        if (!none && is_silent[static_cast<std::size_t>(j)] != 0) continue;
        sums[0] += norms[static_cast<std::size_t>(j - mine.first)];
        sums[1] += 1;
    }
    bench.replicas.group->sum(sums);
    return sums[0] / sums[1];
}

// What a row of this rank is drawn by: the norm of its error, nothing where it has no direction, as a row
// that is b_dec itself.
std::vector<double> weights_of_rows(Workbench& bench, const TrainedSae& sae) {
    std::vector<float> norms;
    bench.device.residual_norms(norms);
    std::vector<double> weights(norms.begin(), norms.end());
    std::vector<float> row(static_cast<std::size_t>(sae.parameters.n));
    for (std::size_t b = 0; b < weights.size(); ++b) {
        bench.device.centered_row(static_cast<std::int64_t>(b), row);
        if (std::ranges::all_of(row, [](float v) { return v == 0; })) weights[b] = 0;
    }
    return weights;
}

// The first row at which the sum of the weights passes `at`; of those with a weight the last, should
// roundings keep the sum below.
std::size_t row_at(std::span<const double> weights, double at) {
    std::size_t row = 0;
    double sum = 0;
    for (std::size_t b = 0; b < weights.size() && sum <= at; ++b) {
        if (weights[b] == 0) continue;
        row = b;
        sum += weights[b];
    }
    return row;
}

}  // namespace

std::vector<std::uint32_t> resample(Workbench& bench, TrainedSae& sae, const OptimizerConfig& optimizer,
                                    std::int64_t step) {
    const std::int64_t every = sae.config.resample_every;
    if (every == 0 || (step + 1) % every != 0) return {};
    std::vector<std::uint32_t> silent;
    const auto limit = static_cast<std::uint64_t>(every) * static_cast<std::uint64_t>(bench.batch_size) / 2;
    std::vector<char> is_silent(sae.silent.size(), 0);
    for (std::size_t j = 0; j < sae.silent.size(); ++j)
        if (sae.silent[j] > limit) {
            silent.push_back(static_cast<std::uint32_t>(j));
            is_silent[j] = 1;
        }
    if (silent.empty()) return {};

    // Cumulative weights over the global batch: this rank's stand between `before` and `after`, which is the
    // next rank's `before`, so that each draw falls to one rank.
    Communicator& comm = bench.comm();
    const std::vector<double> weights = weights_of_rows(bench, sae);
    std::vector<double> of_rank(static_cast<std::size_t>(comm.size()), 0.0);
    for (const double weight : weights) of_rank[static_cast<std::size_t>(comm.rank())] += weight;
    comm.sum(of_rank);
    double before = 0, after = 0, total = 0;
    for (std::size_t r = 0; r < of_rank.size(); ++r) {
        if (static_cast<int>(r) == comm.rank()) before = total;
        total += of_rank[r];
        if (static_cast<int>(r) == comm.rank()) after = total;
    }
    if (total == 0) return {};
    const auto encoder_norm = static_cast<float>(0.2 * living_encoder_norm(bench, sae, is_silent));

    // The rank with the chosen row gives its direction; the sum over ranks spreads it.
    const auto n = static_cast<std::size_t>(sae.parameters.n);
    std::vector<double> direction(n);
    std::vector<float> row(n);
    for (const std::uint32_t j : silent) {
        std::ranges::fill(direction, 0.0);
        Random random(bench.seed, Purpose::resampling, (static_cast<std::uint64_t>(step) << 32) ^ j);
        const double at = static_cast<double>(random.uniform()) * total;
        if (before <= at && at < after) {
            bench.device.centered_row(static_cast<std::int64_t>(row_at(weights, at - before)), row);
            double square = 0;
            for (const float v : row) square += static_cast<double>(v) * v;
            for (std::size_t c = 0; c < n; ++c) direction[c] = row[c] / std::sqrt(square);
        }
        comm.sum(direction);
        std::ranges::transform(direction, row.begin(), [](double v) { return static_cast<float>(v); });
        start_anew(bench, sae, optimizer.kind != "adam", j, row, encoder_norm);
    }
    bench.device.encoder_changed(sae.parameters);
    bench.replicas.group->barrier();  // before another rank reads the rows
    if (sae.config.atm) refresh_atm(sae.atm, silent);
    sae.resampled_at = step;
    return silent;
}

double rate_after_resampling(const TrainedSae& sae, std::int64_t step) {
    const std::int64_t span = sae.config.resample_warmup_steps;
    if (sae.resampled_at < 0 || step - sae.resampled_at >= span) return 1;
    const double part = static_cast<double>(step - sae.resampled_at) / static_cast<double>(span);
    return 0.1 + 0.9 * (1 - std::cos(std::numbers::pi * part)) / 2;
}

}  // namespace strata::train
