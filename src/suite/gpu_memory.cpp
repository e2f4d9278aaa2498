#include "suite/gpu_memory.h"

#include <algorithm>

#include "data/lane.h"
#include "sae/sae.h"
#include "suite/most.h"

namespace strata::suite {
namespace {

// Of device/cuda (cuda_device.h), where lists grow by doubling.
constexpr std::int64_t number = sizeof(float);
constexpr std::int64_t code_bytes = 28;                        // of a code: by row, and by latent
constexpr std::int64_t candidate_bytes = 2 * 2 * 12;           // two lists, of twice as many
constexpr std::int64_t tile_rows = 1024, tile_latents = 4096;  // of the encoder's product
constexpr std::int64_t most_listed = std::int64_t{1} << 23;    // pairs on the lists of a tile's rows
constexpr std::int64_t latent_bytes = 384;                     // sums, limits and bounds of a latent
constexpr std::int64_t bias_latents = 512;                     // whose encoder rows one sum holds
constexpr std::int64_t most_counts = std::int64_t{1} << 24;    // of codes by latent and chunk of rows
constexpr std::int64_t most_chunks = 128;
constexpr std::int64_t batches_there = 3;                       // as files have them: two of the stream, one
                                                                // of held-out rows
constexpr std::int64_t dense_pairs = std::int64_t{1} << 26;     // of a block of rows of dense()
constexpr std::int64_t product_bytes = std::int64_t{32} << 20;  // cuBLASLt's workspace
constexpr std::int64_t nccl_bytes = std::int64_t{1536} << 20;   // NCCL's: up to 1.6 GB was seen by others

// Of an element of x, and of its target.
std::int64_t element_bytes(const data::Dataset& dataset) {
    const auto own = static_cast<std::int64_t>(size_of(data::type_of(dataset)));
    return own + (dataset.target ? element_bytes(*dataset.target) : 0);
}

}  // namespace

RankMemory gpu_memory(const Job& job, const Config& config, const Place& place) {
    const std::int64_t n = job.dataset.n;
    const std::int64_t rows = rows_of_rank(config, place.ranks);
    const std::int64_t held =  // at a time
        std::min(rows, device::up_to_range(config.parallel.micro_batch.value_or(rows)));
    const Most most = most_of(job, held);
    RankMemory m;
    for (const SaeConfig& sae : job.saes) {
        const device::Shape shape = sae::shape_of(sae, n, job.dataset.target != nullptr);
        const std::int64_t matrix = number * n * sae.width, small = number * small_elements(shape);
        m.weights += 2 * matrix;
        m.moments += (4 * matrix + place.ranks - 1) / place.ranks;
        m.vectors += 3 * small;
        m.gradients = std::max(m.gradients, 2 * matrix + small);
    }
    m.rows = held * n * (number * (2 + most.groups + (job.dataset.target ? 2 : 0)) + 2) + 160 * rows +
             batches_there * rows * n * element_bytes(job.dataset);
    // What is selected is there for the whole batch; lists of elementwise kinds are those of a range of rows.
    const double codes = std::max(most.selected_of_row * static_cast<double>(rows),
                                  most.codes_of_row * static_cast<double>(held));
    // The list of a row: four times its codes; with what a tile of latents adds, where the largest are
    // wanted; of elementwise kinds, whose lists begin long, all latents.
    std::int64_t list = most.dense > 0 ? most.width : 64 + static_cast<std::int64_t>(4 * most.codes_of_row);
    if (most.row_top > 0) list = std::max(list, 4 * most.row_top + std::min(most.width, tile_latents));
    m.codes = static_cast<std::int64_t>(codes * (code_bytes + candidate_bytes)) +
              8 * std::min(list * std::min(held, tile_rows), std::max(most_listed, list));
    if (most.aux_k > 0)  // with the encoders of the dead, in the worst case all
        m.auxiliary =
            number * held * n + held * most.aux_k * (code_bytes + candidate_bytes) + number * n * most.width;
    m.encoder = number * std::min(held, tile_rows) * std::min(most.width, tile_latents) + 2 * n * most.width +
                latent_bytes * most.width + 8 * n * most.width / bias_latents +
                number * std::min(most_counts, most_chunks * most.width) + product_bytes;
    if (most.dense > 0)
        m.encoder += (most.dense == 3 ? 5 : 3) * number * std::min(dense_pairs, held * most.width);
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
