#include "suite/gpu_memory.h"

#include <algorithm>

#include "sae/sae.h"
#include "suite/most.h"

namespace strata::suite {
namespace {

// Of device/cuda: of a code, and of the candidates that it comes from (two lists, twice as long).
constexpr std::int64_t number = sizeof(float);
constexpr std::int64_t code_bytes = 28, candidate_bytes = 48;
constexpr std::int64_t tile_rows = 1024, tile_latents = 4096;   // of the encoder's product
constexpr std::int64_t latent_bytes = 256;                      // sums, counts and limits of a latent
constexpr std::int64_t product_bytes = std::int64_t{32} << 20;  // cuBLASLt's workspace
constexpr std::int64_t nccl_bytes = std::int64_t{512} << 20;    // its buffers, by what it says itself
constexpr std::int64_t dense_elements = std::int64_t{1} << 24;

}  // namespace

RankMemory gpu_memory(const Job& job, const Config& config, const Place& place) {
    const std::int64_t n = job.dataset.n;
    const std::int64_t rows = (config.train.batch_size + place.ranks - 1) / place.ranks + 1;
    const Most most = most_of(job, rows);
    RankMemory m;
    for (const SaeConfig& sae : job.saes) {
        const device::Shape shape = sae::shape_of(sae, n, job.dataset.target != nullptr);
        const std::int64_t matrix = number * n * sae.width, small = number * small_elements(shape);
        m.weights += 2 * matrix;
        m.moments += 4 * matrix;
        m.vectors += 3 * small;
        m.gradients = std::max(m.gradients, 2 * matrix + small);
    }
    const std::int64_t row_elements = rows * n;
    m.rows = row_elements * (number * (2 + most.groups + (job.dataset.target ? 2 : 0)) + 2) + 160 * rows;
    const double codes = most.codes_of_row * static_cast<double>(rows);
    m.codes = static_cast<std::int64_t>(codes * (code_bytes + candidate_bytes)) +
              static_cast<std::int64_t>(8 * (4 * most.codes_of_row + 64)) * std::min(rows, tile_rows);
    if (most.aux_k > 0)
        m.auxiliary = number * row_elements + rows * most.aux_k * (code_bytes + candidate_bytes);
    m.encoder = number * tile_rows * std::min(most.width, tile_latents) + 2 * n * most.width +
                latent_bytes * most.width + product_bytes + most.dense * number * dense_elements;
    m.process = place.ranks > 1 ? nccl_bytes : 0;
    return m;
}

GpuLoad fullest_gpu(const Config& config, const std::vector<Job>& jobs, int groups, const Machine& machine) {
    GpuLoad fullest;
    if (machine.gpu_memory == 0) return fullest;
    for (int g = 0; g < groups; ++g) {
        const Place place = place_of(machine, ranks_of(g, groups, machine.ranks()));
        if (g > 0 && place == fullest.place) continue;
        for (std::size_t j = 0; j < jobs.size(); ++j) {
            const std::int64_t needed = gpu_memory(jobs[j], config, place).total();
            if (needed > fullest.needed) fullest = {needed, machine.gpu_room(), j, place};
        }
    }
    return fullest;
}

}  // namespace strata::suite
