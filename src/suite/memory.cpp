#include "suite/memory.h"

#include <algorithm>
#include <functional>
#include <map>

#include "base/error.h"
#include "data/stream.h"
#include "sae/sae.h"

namespace strata::suite {
namespace {

constexpr std::int64_t number = sizeof(float);
constexpr std::int64_t process_bytes = std::int64_t{48} << 20;  // measured, at one thread
constexpr std::int64_t thread_bytes = std::int64_t{2} << 20;    // stack and heap of its own

// Of what a pair takes (device/cpu/cpu_device.h). Lists grow by doubling: by half more than is needed, on the
// average.
constexpr std::int64_t code_bytes = 24;           // of a code: value, latent, gradient, and all by latent
constexpr std::int64_t candidate_bytes = 8 + 18;  // joined; by block of rows, grown
constexpr std::int64_t integer_bytes = 24;        // of a latent beside its integers (device/cpu/screen.h)
constexpr double candidates_of_code = 1.25;       // the guess of a batch rule lies below its threshold
constexpr std::int64_t most_rows_of_block = 512;  // of a product
constexpr std::int64_t columns_of_block = 384;
constexpr std::int64_t dense_elements = std::int64_t{1} << 22;

// Of all SAEs of a job, what is the most.
struct Most {
    std::int64_t width = 0, per_latent = 0, groups = 1;
    bool skip = false;
    double codes_of_row = 0;  // of all sets
    std::int64_t aux_k = 0;
    std::int64_t dense = 0;  // arrays of pre-activations
    bool batch_rule = false;
};

// `rows` of the batch that a rank has.
Most most_of(const Job& job, std::int64_t rows) {
    Most most;
    for (const SaeConfig& sae : job.saes) {
        const device::Shape shape = sae::shape_of(sae, job.dataset.n, job.dataset.target != nullptr);
        const sae::Kind& kind = sae::kind_of(sae.kind);
        most.width = std::max(most.width, shape.width);
        most.per_latent = std::max(most.per_latent, shape.per_latent);
        most.groups = std::max(most.groups, shape.groups());
        most.skip = most.skip || shape.skip;
        // Lists of an elementwise kind begin where its share of active pairs falls to dense_share, a range of
        // rows at a time. Its second set: pairs in the window, or of the gate.
        const double codes = kind.elementwise() ? std::min(sae::dense_share * static_cast<double>(sae.width),
                                                           static_cast<double>(sae::most_list_pairs / rows))
                                                : sae.k;
        const int sets = 1 + (kind.per_latent > 0 ? 1 : 0) + (sae.atm ? 1 : 0);
        most.codes_of_row = std::max(most.codes_of_row, sets * codes);
        if (!kind.elementwise() && sae.aux_coefficient > 0)
            most.aux_k = std::max(most.aux_k, sae::auxiliary_codes(sae, job.dataset.n));
        if (kind.elementwise()) most.dense = std::max<std::int64_t>(most.dense, sae.kind == "gated" ? 3 : 2);
        most.batch_rule = most.batch_rule || kind.inference == sae::Inference::threshold;
    }
    return most;
}

std::int64_t small_elements(const device::Shape& shape) {
    return (1 + shape.per_latent) * shape.width + shape.n + (shape.skip ? shape.n * shape.n : 0);
}

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
    const std::int64_t rows = (config.train.batch_size + ranks - 1) / ranks + 1;
    const Most most = most_of(job, rows);
    RankMemory m;
    std::int64_t saved = 0;  // of the widest SAE
    for (const SaeConfig& sae : job.saes) {
        const device::Shape shape = sae::shape_of(sae, n, job.dataset.target != nullptr);
        const std::int64_t matrix = number * n * sae.width, small = number * small_elements(shape);
        m.weights += (2 * matrix + integer_bytes * sae.width + n * sae.width) / place.sharing;
        m.moments += 4 * matrix / place.sharing;
        const std::int64_t counters = (sae.atm ? 32 : 8) * sae.width;  // silence, three averages
        m.vectors += 3 * small + counters + number * sae.width;        // and thresholds at the end
        m.checkpoint += (6 * matrix + counters) / ranks + (first ? 3 * small : 0);
        m.gradients = std::max(m.gradients, 2 * matrix + small);
        saved = std::max(saved, 3 * matrix + small);
    }
    m.stream = data::stream_bytes(job.dataset, config.data, config.train.batch_size, place.ranks);

    const std::int64_t row_elements = rows * ((n + 63) / 64 * 64);
    m.rows = number * row_elements * (2 + most.groups + (job.dataset.target ? 1 : 0)) + 120 * rows;
    const double codes = most.codes_of_row * static_cast<double>(rows);
    // A rank's part of the codes of a batch goes up and down, and beyond what was made ready lists double.
    const double grown = most.batch_rule && ranks > 1 ? 2 : 1;
    m.codes = static_cast<std::int64_t>(codes *
                                        (grown * code_bytes + 2 * 8 + candidates_of_code * candidate_bytes));
    if (most.aux_k > 0)
        m.auxiliary = number * row_elements + rows * most.aux_k * (code_bytes + candidate_bytes) +
                      threads * std::min(rows, most_rows_of_block) * (4 * most.aux_k + columns_of_block) * 8;
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
        most.batch_rule ? 12 * most.codes_of_row * 65536 / static_cast<double>(ranks) : 0);
    m.finish =
        std::max<std::int64_t>({0, calibrated - m.gradients, first ? saved - m.gradients - m.stream : 0});
    m.process = process_bytes + thread_bytes * threads;
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
    return *std::ranges::min_element(hosts, {}, [](const HostLoad& load) { return load.room - load.needed; });
}

namespace {

std::optional<Layout> fitting(const Config& config, const std::vector<data::Dataset>& datasets,
                              const Machine& machine) {
    std::map<std::int64_t, std::vector<Job>> jobs;  // by SAEs of a job
    return layout_of(config, datasets, machine.ranks(), [&](const Layout& layout) {
        std::vector<Job>& known = jobs[layout.saes_per_job];
        if (known.empty()) known = jobs_of(config, datasets, layout.saes_per_job);
        return fullest_host(config, known, layout.groups, machine).fits();
    });
}

// The largest of low, low + step, ... below high at which something fits.
std::optional<std::int64_t> largest(std::int64_t low, std::int64_t high, std::int64_t step,
                                    const std::function<bool(std::int64_t)>& fits) {
    if (low >= high || !fits(low)) return std::nullopt;
    std::int64_t good = 0, bad = (high - low + step - 1) / step;
    while (bad - good > 1) {
        const std::int64_t middle = (good + bad) / 2;
        (fits(low + middle * step) ? good : bad) = middle;
    }
    return low + good * step;
}

// Single changes, each of which would do.
std::vector<std::string> remedies(const Config& config, const std::vector<data::Dataset>& datasets,
                                  const Machine& machine, bool kept) {
    std::vector<std::string> found;
    const auto with = [&](const auto& change) {
        Config changed = config;
        change(changed);
        return fitting(changed, datasets, machine).has_value();
    };
    if (config.parallel.saes_per_job && !kept)
        if (const auto most = largest(1, *config.parallel.saes_per_job, 1, [&](std::int64_t saes) {
                return with([&](Config& c) { c.parallel.saes_per_job = saes; });
            }))
            found.push_back(fmt::format("parallel.saes_per_job: {}", *most));
    if (config.parallel.groups || config.parallel.data)
        if (with([](Config& c) { c.parallel.groups = c.parallel.data = std::nullopt; }))
            found.emplace_back("parallel.groups and parallel.data: auto");
    std::int64_t widest = 0;
    for (const SaeConfig& sae : config.saes) widest = std::max(widest, sae.width);
    if (const auto most = largest(64, widest, 64, [&](std::int64_t width) {
            return with([&](Config& c) {
                for (SaeConfig& sae : c.saes) {
                    sae.width = std::min(sae.width, width);
                    sae.prefixes.clear();
                    sae.k = std::min(sae.k, static_cast<double>(sae.width));
                }
            });
        }))
        found.push_back(fmt::format("sae.width: at most {}", *most));
    if (const auto most =
            largest(2 * config.data.lanes, config.data.shuffle_rows, config.data.lanes,
                    [&](std::int64_t rows) { return with([&](Config& c) { c.data.shuffle_rows = rows; }); }))
        found.push_back(fmt::format("data.shuffle_rows: at most {}", *most));
    const int ranks = machine.ranks();
    for (int hosts = static_cast<int>(machine.memory.size()) + 1; hosts <= ranks; ++hosts) {
        const Machine more = equal_hosts(ranks, (ranks + hosts - 1) / hosts,
                                         *std::ranges::min_element(machine.memory), machine.threads);
        if (!fitting(config, datasets, more)) continue;
        found.push_back(fmt::format("the same {} ranks on {} hosts", ranks, hosts));
        break;
    }
    return found;
}

double gib(std::int64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(std::int64_t{1} << 30);
}

}  // namespace

Layout layout_in_memory(const Config& config, const std::vector<data::Dataset>& datasets,
                        const Machine& machine, std::optional<std::int64_t> kept) {
    Config asked = config;
    if (kept) asked.parallel.saes_per_job = kept;
    if (const auto layout = fitting(asked, datasets, machine)) return *layout;

    // The division that takes least: few SAEs to a job, few groups.
    const std::int64_t together = asked.parallel.saes_per_job.value_or(1);
    const std::vector<Job> jobs = jobs_of(asked, datasets, std::min(together, std::ssize(asked.saes)));
    const std::int64_t groups = asked.parallel.groups ? *asked.parallel.groups
                                : asked.parallel.data ? machine.ranks() / *asked.parallel.data
                                                      : 1;
    const HostLoad least = fullest_host(asked, jobs, static_cast<int>(groups), machine);
    std::string by_tensor;
    const RankMemory of_rank = rank_memory(jobs[least.job], asked, least.place, true);
    for (const RankMemory::Part& part : of_rank.parts())
        by_tensor += fmt::format("{}{} {:.2f}", by_tensor.empty() ? "" : ", ", part.name, gib(part.bytes));
    const std::vector<std::string> ways = remedies(asked, datasets, machine, kept.has_value());
    refuse(
        "memory: the ranks of a host of {:.2f} GiB need {:.2f} GiB at the least, and may fill {:.2f}; job {} "
        "of {} SAE{} takes, for each of the {} rank{} of its group on that host, {:.2f} GiB: {}; {}",
        gib(machine.memory[static_cast<std::size_t>(least.host)]), gib(least.needed), gib(least.room),
        jobs[least.job].name, jobs[least.job].saes.size(), jobs[least.job].saes.size() == 1 ? "" : "s",
        least.place.on_host, least.place.on_host == 1 ? "" : "s", gib(of_rank.total()), by_tensor,
        ways.empty() ? "no single change of width, shuffle buffer, division or hosts would fit"
                     : fmt::format("would fit: {}", fmt::join(ways, "; or ")));
}

}  // namespace strata::suite
