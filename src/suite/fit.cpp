#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>

#include "base/error.h"
#include "suite/gpu_memory.h"
#include "suite/memory.h"
#include "suite/most.h"

namespace strata::suite {

namespace {

constexpr int most_times = 64;  // as many ranks

// Smaller micro-batches than a tile of the encoder's product has rows save little and cost much.
constexpr std::int64_t least_micro_batch = 1020;

// `most`: rows of a micro-batch to begin with, where they are open; 0: all.
std::optional<Layout> fitting(Config config, const std::vector<data::Dataset>& datasets,
                              const Machine& machine, std::int64_t most = 0) {
    const bool open = !config.parallel.micro_batch && machine.gpu_memory > 0;
    if (open && most > 0) config.parallel.micro_batch = most;
    std::map<std::int64_t, std::vector<Job>> jobs;  // by SAEs of a job
    while (true) {
        std::optional<Layout> layout = layout_of(config, datasets, machine.ranks(), [&](const Layout& tried) {
            std::vector<Job>& known = jobs[tried.saes_per_job];
            if (known.empty()) known = jobs_of(config, datasets, tried.saes_per_job);
            return fullest_host(config, known, tried.groups, machine).fits() &&
                   fullest_gpu(config, known, tried.groups, machine).fits();
        });
        const std::int64_t rows = config.parallel.micro_batch.value_or(config.train.batch_size);
        if (layout && (machine.gpu_memory == 0 ||
                       rows >= rows_of_rank(config, std::max(1, machine.ranks() / layout->groups))))
            layout->micro_batch = 0;
        if (layout || !open || rows <= least_micro_batch) return layout;
        config.parallel.micro_batch = std::max(least_micro_batch, device::up_to_range((rows + 1) / 2));
    }
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
    // A GPU holds the rows and codes of a batch beside the SAEs.
    if (config.parallel.micro_batch && machine.gpu_memory > 0)
        if (with([](Config& c) { c.parallel.micro_batch = std::nullopt; }))
            found.emplace_back("parallel.micro_batch: auto");
    if (machine.gpu_memory > 0)
        if (const auto most = largest(64, config.train.batch_size, 64, [&](std::int64_t rows) {
                return with([&](Config& c) { c.train.batch_size = rows; });
            }))
            found.push_back(fmt::format("train.batch_size: at most {}", *most));
    const int ranks = machine.ranks();
    const auto fits_on = [&](int count, int per_host) {
        Machine other =
            equal_hosts(count, per_host, *std::ranges::min_element(machine.memory), machine.threads);
        other.gpu_memory = machine.gpu_memory;
        return fitting(config, datasets, other).has_value();
    };
    for (int hosts = static_cast<int>(machine.memory.size()) + 1; hosts <= ranks; ++hosts) {
        if (!fits_on(ranks, (ranks + hosts - 1) / hosts)) continue;
        found.push_back(fmt::format("the same {} ranks on {} hosts", ranks, hosts));
        break;
    }
    // Every GPU holds the moments of its own slice, and the rows of its own rank.
    const auto on_host = static_cast<int>(std::ranges::count(machine.host_of, machine.host_of.front()));
    for (int times = 2; machine.gpu_memory > 0 && !config.parallel.data && times <= most_times; times *= 2) {
        if (!fits_on(times * ranks, on_host)) continue;
        found.push_back(fmt::format("{} ranks, each with such a GPU", times * ranks));
        break;
    }
    return found;
}

double gib(std::int64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(std::int64_t{1} << 30);
}

std::string by_tensor(const RankMemory& memory) {
    std::string text;
    for (const RankMemory::Part& part : memory.parts())
        if (part.bytes > 0)
            text += fmt::format("{}{} {:.2f}", text.empty() ? "" : ", ", part.name, gib(part.bytes));
    return text;
}

}  // namespace

Layout layout_in_memory(const Config& config, const std::vector<data::Dataset>& datasets,
                        const Machine& machine, const std::optional<Layout>& kept) {
    Config asked = config;
    if (kept) asked.parallel.saes_per_job = kept->saes_per_job;
    if (const auto layout = fitting(asked, datasets, machine, kept ? kept->micro_batch : 0)) return *layout;

    // The division that takes least: few SAEs to a job, few groups.
    const std::int64_t together = asked.parallel.saes_per_job.value_or(1);
    const std::vector<Job> jobs = jobs_of(asked, datasets, std::min(together, std::ssize(asked.saes)));
    const std::int64_t groups = asked.parallel.groups ? *asked.parallel.groups
                                : asked.parallel.data ? machine.ranks() / *asked.parallel.data
                                                      : 1;
    if (!asked.parallel.micro_batch) asked.parallel.micro_batch = least_micro_batch;
    const std::vector<std::string> ways = remedies(asked, datasets, machine, kept.has_value());
    const std::string remedy =
        ways.empty() ? "no single change of width, batch, shuffle buffer, division, hosts or ranks would fit"
                     : fmt::format("would fit: {}", fmt::join(ways, "; or "));
    if (const GpuLoad gpu = fullest_gpu(asked, jobs, static_cast<int>(groups), machine); !gpu.fits()) {
        const RankMemory of_rank = gpu_memory(jobs[gpu.job], asked, gpu.place);
        refuse(
            "memory: a GPU with {:.2f} GiB free may fill {:.2f}; job {} of {} SAE{} takes {:.2f} GiB of each "
            "at the "
            "least: {}; {}",
            gib(machine.gpu_memory), gib(gpu.room), jobs[gpu.job].name, jobs[gpu.job].saes.size(),
            jobs[gpu.job].saes.size() == 1 ? "" : "s", gib(gpu.needed), by_tensor(of_rank), remedy);
    }
    const HostLoad least = fullest_host(asked, jobs, static_cast<int>(groups), machine);
    const RankMemory of_rank = rank_memory(jobs[least.job], asked, least.place, true);
    refuse(
        "memory: the ranks of a host of {:.2f} GiB need {:.2f} GiB at the least, and may fill {:.2f}; job {} "
        "of {} SAE{} takes, for each of the {} rank{} of its group on that host, {:.2f} GiB: {}; {}",
        gib(machine.memory[static_cast<std::size_t>(least.host)]), gib(least.needed), gib(least.room),
        jobs[least.job].name, jobs[least.job].saes.size(), jobs[least.job].saes.size() == 1 ? "" : "s",
        least.place.on_host, least.place.on_host == 1 ? "" : "s", gib(of_rank.total()), by_tensor(of_rank),
        remedy);
}

}  // namespace strata::suite
