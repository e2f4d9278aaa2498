#include "suite/memory.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "data/shared_rows.h"
#include "data/stream.h"
#include "sae/sae.h"
#include "suite/most.h"

namespace strata::suite {
namespace {

constexpr std::int64_t number = sizeof(float);
constexpr std::int64_t process_bytes = std::int64_t{48} << 20;  // measured, at one thread
constexpr std::int64_t thread_bytes = std::int64_t{2} << 20;    // stack and heap of its own
constexpr std::int64_t gpu_process_bytes = std::int64_t{512}
                                           << 20;  // CUDA's, cuBLASLt's and NCCL's libraries

// Of what a pair takes (device/cpu/cpu_device.h).
constexpr std::int64_t code_bytes = 24;          // of a code: value, latent, gradient, and all by latent
constexpr std::int64_t candidate_bytes = 8 + 8;  // by block of rows, and joined
constexpr std::int64_t integer_bytes = 24;       // of a latent beside its integers (device/cpu/screen.h)
constexpr double candidates_of_code = 1.25;      // the guess of a batch rule lies below its threshold
// A listed pair is a code, or two of another set; all pairs of a window at the most, half of them codes.
constexpr double window_sets = 1.5;
constexpr std::int64_t most_rows_of_block = 512;  // of a product
constexpr std::int64_t columns_of_block = 384;
constexpr std::int64_t dense_elements = std::int64_t{1} << 22;

}  // namespace

std::array<RankMemory::Part, 12> RankMemory::parts() const {
    return {{{"weights", weights},
             {"moments", moments},
             {"vectors", vectors},
             {"gradients", gradients},
             {"checkpoint", checkpoint},
             {"stream", stream},
             {"rows", rows},
             {"codes", codes},
             {"auxiliary", auxiliary},
             {"encoder", encoder},
             {"finish", finish},
             {"process", process}}};
}

std::int64_t RankMemory::total() const {
    std::int64_t sum = 0;
    for (const Part& part : parts()) sum += part.bytes;
    return sum;
}

RankMemory rank_memory(const Job& job, const Config& config, const Place& place, bool first) {
    const std::int64_t n = job.dataset.n, ranks = place.ranks, threads = place.threads;
    const std::int64_t rows = rows_of_rank(config, place.ranks);
    const Most most = most_of(job, rows);
    RankMemory m;
    std::int64_t saved = 0;  // of the widest SAE
    std::int64_t counters = 0;
    for (const SaeConfig& sae : job.saes) {
        const device::Shape shape = sae::shape_of(sae, n, job.dataset.target != nullptr);
        const std::int64_t matrix = number * n * sae.width, small = number * small_elements(shape);
        m.weights += (2 * matrix + integer_bytes * sae.width + n * sae.width) / place.sharing;
        m.moments += 4 * matrix / place.sharing;
        const std::int64_t own = (sae.atm ? 32 : 8) * sae.width;  // silence, three averages
        counters += own;
        m.vectors += 3 * small + own + number * sae.width;  // and thresholds at the end
        m.checkpoint += (6 * matrix + own) / ranks + (first ? 3 * small : 0);
        // Dense steps make the gradients of all latents, the others those of a rank's slice.
        const bool whole = sae::kind_of(sae.kind).elementwise();
        m.gradients = std::max(m.gradients, 2 * matrix / (whole ? 1 : place.sharing) + small);
        saved = std::max(saved, 3 * matrix + small);
    }
    m.stream = data::stream_bytes(job.dataset, config.data, config.train.batch_size, place.ranks);

    const std::int64_t row_elements = rows * ((n + 63) / 64 * 64);
    m.rows = number * row_elements * (2 + most.groups + (job.dataset.target ? 1 : 0)) + 120 * rows;
    const double codes = most.selected_of_row * static_cast<double>(rows);
    // A rank's part of the codes of a batch goes up and down, and beyond what was made ready lists double.
    const double grown = most.batch_rule && ranks > 1 ? 2 : 1;
    const double selected = codes * (grown * code_bytes + 2 * 8 + candidates_of_code * candidate_bytes);
    m.codes = static_cast<std::int64_t>(
        std::max(selected, most.listed * (candidate_bytes + (most.windows ? window_sets : 1) * code_bytes)));
    if (most.aux_k > 0)
        m.auxiliary = number * row_elements + rows * most.aux_k * (code_bytes + candidate_bytes) +
                      threads * std::min(rows, most_rows_of_block) * (4 * most.aux_k + columns_of_block) * 8;
    // The batch of the host (device/cpu/host_batch.h): this rank's part of it, and the codes of its slice.
    if (place.sharing > 1) {
        m.rows += number * row_elements * (1 + most.groups);
        m.codes += static_cast<std::int64_t>(std::max(codes, most.listed)) * code_bytes;
        if (most.aux_k > 0) m.auxiliary += number * row_elements + rows * most.aux_k * code_bytes;
    }
    const std::int64_t block_rows =
        std::min(rows, std::clamp<std::int64_t>(dense_elements / most.width / 64, 1, 8) * 64);
    m.encoder = (n + 36) * (rows + most.width) + 8 * n * std::max(rows, most.width) / 64 +
                number * threads * most_rows_of_block * columns_of_block +
                number * most.width * (threads + 1) + 160 * most.width +
                most.dense * number * block_rows * most.width +
                (most.dense > 0 ? number * block_rows * (most.groups * n + 1024 * threads) : 0);

    // Gradients are given back before the end: their room serves the candidates of the threshold, then, with
    // that of the stream, the copies that saving makes.
    const auto calibrated = static_cast<std::int64_t>(
        most.batch_rule ? 12 * most.selected_of_row * 65536 / static_cast<double>(ranks) : 0);
    m.finish =
        std::max<std::int64_t>({0, calibrated - m.gradients, first ? saved - m.gradients - m.stream : 0});
    m.process = process_bytes + thread_bytes * threads;
    if (place.on_gpus) {
        m.weights = m.moments = m.gradients = m.rows = m.codes = m.auxiliary = m.encoder = 0;
        m.vectors = counters;
        m.finish = std::max<std::int64_t>({0, calibrated / 3, first ? saved - m.stream : 0});  // values alone
        m.process += gpu_process_bytes;
    }
    // The map by which transcoders begin is made before there are gradients and a stream.
    if (std::ranges::any_of(job.saes, [&](const SaeConfig& sae) {
            return sae::begins_fitted(sae, job.dataset.target != nullptr);
        }))
        m.finish = std::max(m.finish, 22 * n * n - m.gradients - m.stream - m.checkpoint);
    return m;
}

HostLoad fullest_host(const Config& config, const std::vector<Job>& jobs, int groups,
                      const Machine& machine) {
    // By place of a group, and whether its first rank is among them: bytes of a rank for each job.
    std::map<std::pair<Place, bool>, std::vector<std::pair<std::int64_t, std::size_t>>> known;
    const auto of_rank = [&](const Place& place, bool first) -> const auto& {
        auto& bytes = known[{place, first}];
        if (bytes.empty()) {
            for (std::size_t j = 0; j < jobs.size(); ++j)
                bytes.emplace_back(rank_memory(jobs[j], config, place, first).total(), j);
            std::ranges::stable_sort(bytes, std::greater<>(), [](const auto& one) { return one.first; });
        }
        return bytes;
    };
    std::vector<HostLoad> hosts(machine.memory.size());
    std::vector<std::size_t> taken(hosts.size(), 0);  // jobs that groups of the host train
    for (std::size_t h = 0; h < hosts.size(); ++h)
        hosts[h] = {.host = static_cast<int>(h), .room = machine.room(static_cast<int>(h))};
    for (int g = 0; g < groups; ++g) {
        const Ranks ranks = ranks_of(g, groups, machine.ranks());
        const Place place = place_of(machine, ranks);
        std::map<int, std::int64_t> on_host;
        for (int r = ranks.first; r < ranks.last; ++r)
            ++on_host[machine.host_of[static_cast<std::size_t>(r)]];
        for (const auto& [host, count] : on_host) {
            HostLoad& load = hosts[static_cast<std::size_t>(host)];
            const std::size_t turn = taken[static_cast<std::size_t>(host)]++;
            if (turn >= jobs.size()) continue;
            const bool first = host == machine.host_of[static_cast<std::size_t>(ranks.first)];
            const auto [bytes, job] = of_rank(place, false)[turn];
            load.needed += bytes * count;
            if (first) load.needed += of_rank(place, true)[turn].first - bytes;
            if (turn == 0) {
                load.job = job;
                load.place = place;
            }
        }
    }
    const std::vector<data::Dataset> several = datasets_of_several(jobs);
    for (std::size_t h = 0; h < hosts.size(); ++h) {
        if (taken[h] < 2 || several.empty()) continue;
        hosts[h].shared_rows = data::shared_rows_size(several, config.data).bytes();
        hosts[h].needed += hosts[h].shared_rows;
    }
    return *std::ranges::min_element(hosts, {}, [](const HostLoad& load) { return load.room - load.needed; });
}

}  // namespace strata::suite
