#include "suite/predict.h"

#include <algorithm>

#include "sae/kind.h"

namespace strata::suite {
namespace {

// An operation on codes, which gathers, takes as long as so many of the product: measured, 13 to 18.
constexpr double code_cost = 15;
// Floats of W_enc and W_dec that a step reads or writes: products, gradients, optimiser.
constexpr double passes = 17;

}  // namespace

Traffic traffic_of(const Job& job, const Place& place, std::int64_t rows) {
    Traffic traffic;
    for (const SaeConfig& sae : job.saes) {
        const double matrices = 8.0 * static_cast<double>(job.dataset.n) * static_cast<double>(sae.width);
        // Copies of the rows and of the residual of every prefix; codes twice (device/cpu/host_batch.h).
        const auto copies = static_cast<double>(1 + prefix_widths(sae).size());
        if (place.sharing > 1)
            traffic.shared += static_cast<double>(rows) *
                              (copies * 8 * static_cast<double>(job.dataset.n) + 24 * active_of(sae));
        // In a ring of s every member sends all but a part twice. Ranks that share have a ring for each
        // slice, which together send what one rank alone would; where none do all ranks are one ring.
        const int ring = place.ranks / place.sharing;
        if (place.hosts > 1) traffic.sent += 2.0 * (ring - 1) / ring * matrices;
    }
    return traffic;
}

double row_bytes(const data::Dataset& dataset) {
    double bytes = 0;
    for (const data::FilePart& part : dataset.parts)
        bytes += static_cast<double>(part.rows) * static_cast<double>(data::size_of(part.type));
    bytes *= static_cast<double>(dataset.n) / static_cast<double>(dataset.rows);
    return bytes + (dataset.target ? row_bytes(*dataset.target) : 0);
}

double active_of(const SaeConfig& sae) {
    return sae::kind_of(sae.kind).elementwise() ? sae.l0_target.value_or(64) : sae.k;
}

double sae_seconds(const Job& job, const SaeConfig& sae, std::int64_t rows, double product, double memory) {
    const auto b = static_cast<double>(rows), n = static_cast<double>(job.dataset.n);
    const auto m = static_cast<double>(sae.width);
    return (2 * b * n * m + code_cost * 8 * n * b * active_of(sae)) / product + passes * 4 * n * m / memory;
}

double step_seconds(const Job& job, const Config& config, const Place& place, int cores, const Rates& rates) {
    const double share = static_cast<double>(cores) / (place.on_host * place.threads);
    const std::int64_t rows = config.train.batch_size * place.on_host / place.ranks;
    const Traffic traffic = traffic_of(job, place, rows);
    double seconds = share * (traffic.shared / rates.memory + traffic.sent / rates.link);
    for (const SaeConfig& sae : job.saes) seconds += share * rates.sae_seconds(job, sae, rows);
    // A thread of every rank reads, on the cores that the step wants; and no step ends before its rows are
    // there.
    const double reading = rates.read_seconds(job.dataset, rows);
    return std::max(seconds + reading / (place.on_host * place.threads), reading / place.on_host);
}

}  // namespace strata::suite
