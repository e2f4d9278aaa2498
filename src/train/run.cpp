#include "train/run.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/host.h"
#include "base/log.h"
#include "base/phase.h"
#include "base/stop.h"
#include "comm/agree.h"
#include "comm/watchdog.h"
#include "data/dataset.h"
#include "data/shared_rows.h"
#include "data/stage.h"
#include "device/gpu.h"
#include "formats/saelens.h"
#include "sae/sae.h"
#include "suite/layout.h"
#include "suite/memory.h"
#include "suite/suite.h"
#include "train/checkpoint.h"
#include "train/coordinator.h"
#include "train/job.h"
#include "train/journal.h"
#include "train/output.h"
#include "train/schedule.h"
#include "train/step.h"

namespace strata::train {
namespace {

namespace fs = std::filesystem;

// Cores of this rank, and those of them that its threads use.
struct Cores {
    int share = 1, threads = 1;
};

// Its own if ranks are bound to different ones, else its share of the node's.
Cores share_cores(const ParallelConfig& config, Communicator& comm) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    sched_getaffinity(0, sizeof mask, &mask);
    const int cores = std::max(1, CPU_COUNT(&mask));
    std::uint64_t mine = 0xcbf29ce484222325U;  // FNV-1a of the mask
    for (std::size_t i = 0; i < sizeof mask; ++i)
        mine = (mine ^ reinterpret_cast<const unsigned char*>(&mask)[i]) * 0x100000001b3U;
    std::vector<std::uint64_t> all(static_cast<std::size_t>(comm.size()));
    comm.gather({&mine, 1}, all);
    const bool shared = std::ranges::all_of(all, [&](std::uint64_t m) { return m == mine; });
    const int share = std::max(1, shared ? cores / comm.ranks_on_node() : cores);
    return {share, config.threads ? static_cast<int>(*config.threads) : share};
}

// What is to be done and what is done already.
struct Plan {
    suite::Layout layout;
    std::vector<suite::Job> jobs;
    std::set<std::string> done;  // names of jobs
};

// The hosts of all ranks. `gpu_memory`: free on this rank's GPU. Collective.
suite::Machine machine_of(Communicator& comm, int threads, std::int64_t gpu_memory) {
    const std::unique_ptr<Communicator> node = comm.on_node();
    std::array<std::uint64_t, 1> leader = {static_cast<std::uint64_t>(comm.rank())};
    node->broadcast(std::as_writable_bytes(std::span(leader)), 0);
    const std::array<std::uint64_t, 2> mine = {leader[0], static_cast<std::uint64_t>(host_memory())};
    std::vector<std::uint64_t> all(mine.size() * static_cast<std::size_t>(comm.size()));
    comm.gather(mine, all);
    suite::Machine machine;
    std::map<std::uint64_t, int> hosts;  // by leader
    for (std::size_t r = 0; r < all.size(); r += 2) {
        const auto memory = static_cast<std::int64_t>(all[r + 1]);
        const auto [host, added] = hosts.emplace(all[r], static_cast<int>(hosts.size()));
        if (added) machine.memory.push_back(memory);
        std::int64_t& least = machine.memory[static_cast<std::size_t>(host->second)];
        least = std::min(least, memory);
        machine.host_of.push_back(host->second);
    }
    machine.threads = threads;
    double most_taken = -static_cast<double>(gpu_memory);
    comm.max(std::span(&most_taken, 1));
    machine.gpu_memory = static_cast<std::int64_t>(-most_taken);
    return machine;
}

// Before anything is written: the folders of saved SAEs that the run begins with.
void check_starts(const Config& config, const std::vector<suite::Job>& jobs) {
    for (const suite::Job& job : jobs)
        for (std::size_t i = 0; i < job.saes.size(); ++i) {
            const SaeConfig& sae = job.saes[i];
            if (sae.init_from.empty()) continue;
            const saelens::SavedSae saved = named_by_user([&] { return saelens::describe(sae.init_from); });
            check_init_from(saved, sae, job.names[i],
                            sae::shape_of(sae, job.dataset.n, !config.data.target.empty()));
        }
}

// A run that is continued keeps the jobs it began with, whatever ranks it has now.
Plan plan_of(const Config& config, const suite::Machine& machine,
             const std::optional<JournalStart>& journal) {
    const std::vector<data::Dataset> datasets = data::find_datasets(
        config.data.files, config.data.datasets, config.data.target, config.data.skip_corrupt);
    for (const data::Dataset& dataset : datasets) data::training_rows(dataset, config.data);
    Plan plan;
    plan.layout = suite::layout_in_memory(config, datasets, machine,
                                          journal ? std::optional(journal->layout) : std::nullopt);
    plan.jobs = suite::jobs_of(config, datasets, plan.layout.saes_per_job);
    if (!journal) {
        check_starts(config, plan.jobs);
        return plan;
    }
    plan.done = journal->done;
    std::vector<std::vector<std::string>> saes;
    for (const suite::Job& job : plan.jobs) saes.push_back(job.names);
    if (saes != journal->saes)
        refuse(
            "{}: the run was begun with other datasets than data.files and data.datasets name now; restore "
            "the files, or choose another run.output",
            (fs::path(config.run.output) / "journal.jsonl").string());
    return plan;
}

std::optional<JournalStart> journal_to_continue(const Config& config, bool resume) {
    if (!resume) return std::nullopt;
    std::optional<JournalStart> journal = read_journal(config.run.output);
    if (!journal) log::info("{} holds no run yet: starting anew", config.run.output);
    const std::string now = fingerprint(config);
    if (journal && journal->fingerprint != now)
        refuse(
            "{}: made under another configuration; to continue it, restore these settings, or choose another "
            "run.output{}",
            (fs::path(config.run.output) / "journal.jsonl").string(), differences(journal->fingerprint, now));
    return journal;
}

// A run of one job has its checkpoints where they were always looked for.
fs::path checkpoints_of(const Config& config, const Plan& plan, const suite::Job& job) {
    const fs::path all = fs::path(config.run.output) / "checkpoints";
    return plan.jobs.size() == 1 ? all : all / job.name;
}

// Rank 0: the files of the output folder as a new run has them, or as far as jobs and checkpoints go.
std::unique_ptr<Coordinator> make_coordinator(const Config& config, const Plan& plan) {
    const fs::path output = config.run.output;
    Journal journal(output, config, plan.jobs, plan.layout);  // tells that the rest is a run's
    write_file(output / "config.yaml", to_yaml(config));
    std::map<std::string, std::int64_t> last;
    for (const suite::Job& job : plan.jobs) {
        const std::optional<Checkpoint> newest = newest_checkpoint(checkpoints_of(config, plan, job));
        for (const std::string& name : job.names)
            last[name] = plan.done.contains(job.name) ? config.train.steps()
                         : newest                     ? newest->progress.step
                                                      : 0;
    }
    keep_lines(output / "metrics.jsonl", last);
    for (const std::string& done : plan.done)  // a run may have been killed before it removed them
        if (plan.jobs.size() > 1) fs::remove_all(output / "checkpoints" / done);
    return std::make_unique<Coordinator>(output, plan.jobs, plan.done, std::move(journal),
                                         MetricsFile(output / "metrics.jsonl"));
}

void log_plan(const Config& config, const Plan& plan, const std::string& device, int ranks) {
    const auto plural = [](std::int64_t count, const char* what) {
        return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
    };
    if (!plan.done.empty())
        log::info("{} of {} done already", plan.done.size(), plural(std::ssize(plan.jobs), "job"));
    log::info("{} on {}; {} in {}, {}, {} of {} rows", plural(ranks, "rank"), device,
              plural(std::ssize(plan.jobs), "job"), plural(plan.layout.groups, "group"),
              plural(std::ssize(config.saes), "SAE") + " for each dataset",
              plural(config.train.steps(), "step"), config.train.batch_size);
    if (plan.layout.micro_batch > 0)
        log::info("GPUs hold at most {} rows of a batch at a time", plan.layout.micro_batch);
    if (warmup_steps(config.optimizer, config.train.steps()) < config.optimizer.warmup_steps)
        log::info("warm-up shortened from {} to {} steps, a tenth of the run", config.optimizer.warmup_steps,
                  warmup_steps(config.optimizer, config.train.steps()));
}

// One rank of each host copies the files of all jobs; from then on they are read from there.
void stage_files(const Config& config, Communicator& comm, Plan& plan) {
    const std::string& folder = config.data.stage;
    if (folder.empty()) return;
    const Phase phase("the copying of files to data.stage");
    const bool copies = comm.on_node()->rank() == 0;
    together(comm, [&] {
        if (!copies) return;
        for (const suite::Job& job : plan.jobs) data::stage(job.dataset, folder);
    });
    for (suite::Job& job : plan.jobs) job.dataset = data::staged(job.dataset, folder);
}

// Where groups of this host may train on the same dataset, they read its rows through memory that all of them
// reach. Nothing where none do, or they cannot reach each other's. Collective.
std::shared_ptr<data::SharedRows> share_rows(const Config& config, Communicator& comm, int group,
                                             Plan& plan) {
    const std::unique_ptr<Communicator> node = comm.on_node();
    const auto mine = static_cast<std::uint64_t>(group);
    std::vector<std::uint64_t> groups(static_cast<std::size_t>(node->size()));
    node->gather({&mine, 1}, groups);
    const std::vector<data::Dataset> several = suite::datasets_of_several(plan.jobs);
    if (several.empty() || std::ranges::count(groups, mine) == node->size()) return nullptr;
    const data::SharedRowsSize size = data::shared_rows_size(several, config.data);
    std::optional<SharedMemory> memory =
        node->share(node->rank() == 0 ? static_cast<std::size_t>(size.bytes()) : 0);
    if (!memory) return nullptr;
    const auto rows = std::make_shared<data::SharedRows>(std::move(*memory), size);
    for (suite::Job& job : plan.jobs) {
        const auto found = std::ranges::find(several, job.dataset.name, &data::Dataset::name);
        if (found != several.end())
            job.dataset =
                data::sharing(job.dataset, rows, static_cast<std::uint32_t>(found - several.begin()));
    }
    return rows;
}

// Job after job, until none is left or the run stops; collective over the group.
void work_off(Group& group, const Plan& plan) {
    while (true) {
        std::optional<std::size_t> next;
        if (group.comm.rank() == 0) next = group.line.next();
        std::array<std::uint64_t, 1> number = {next ? *next + 1 : 0};
        group.comm.broadcast(std::as_writable_bytes(std::span(number)), 0);
        if (number[0] == 0) return;
        const suite::Job& job = plan.jobs[number[0] - 1];
        const fs::path checkpoints = checkpoints_of(group.config, plan, job);
        if (!train_job(group, job, number[0] - 1, checkpoints)) return;
        // What the many jobs of a suite leave would fill a disk.
        if (group.comm.rank() == 0 && plan.jobs.size() > 1) fs::remove_all(checkpoints);
    }
}

}  // namespace

int run(const Config& config, const RunOptions& options, Communicator& comm) {
    stop_before(end_of_run(config.run.time_limit, std::chrono::system_clock::now()));
    const bool first = comm.rank() == 0;
    const Cores cores = share_cores(config.parallel, comm);
    const std::unique_ptr<device::Device> device = device::make_device(
        comm, {config.run.device, cores.threads, {config.run.encoder, config.run.screen_bound}});
    const suite::Machine machine = machine_of(comm, cores.threads, device::free_memory(*device));
    Plan plan;
    std::optional<JournalStart> journal;
    together(comm, [&] {
        journal = journal_to_continue(config, options.resume);
        plan = plan_of(config, machine, journal);
        const int most = (comm.size() + plan.layout.groups - 1) / plan.layout.groups;
        if (most > config.data.lanes)
            refuse(
                "data.lanes: {} lanes cannot feed a group of {} ranks; start fewer ranks or raise data.lanes",
                config.data.lanes, most);
    });
    OutputLock lock;
    std::unique_ptr<Coordinator> coordinator;
    together(comm, [&] {
        if (!first) return;
        lock = open_output(config, options.resume);
        if (options.resume && read_journal(config.run.output) != journal)
            refuse("run.output: another run wrote to '{}' while this one began; start it again",
                   config.run.output);
        coordinator = make_coordinator(config, plan);
    });
    keep_log(fs::path(config.run.output) / "logs", comm.rank());
    const Watchdog watchdog(comm, config.run.watchdog);
    stage_files(config, comm, plan);
    log_plan(config, plan, device->name(), comm.size());

    const int groups = plan.layout.groups, number = suite::group_of(comm.rank(), groups, comm.size());
    const std::unique_ptr<Communicator> mail = comm.duplicate(), ranks = comm.split(number);
    const std::shared_ptr<data::SharedRows> shared = share_rows(config, comm, number, plan);
    const Replicas replicas(*ranks, *device);
    Group group{.config = config,
                .comm = *ranks,
                .line = {coordinator.get(), *mail, number},
                .device = *device,
                .replicas = replicas,
                .micro_batch = plan.layout.micro_batch,
                .spare_core = cores.threads < cores.share,
                .bar = first && !options.quiet && isatty(STDERR_FILENO) != 0};
    std::array<std::uint32_t, 1> finished = {0};
    {
        const CoordinatorThread thread(first && groups > 1 ? coordinator.get() : nullptr, *mail);
        try {
            work_off(group, plan);
        } catch (const Ended& ended) {
            if (groups == 1) throw;
            // The others are elsewhere; first the message, which one rank of the group is writing, comes out.
            std::this_thread::sleep_for(std::chrono::milliseconds(200));
            comm.abort(ended.status);
        }
        if (shared)
            log::info("{} rows read from files, {} taken from memory that groups of this host share",
                      shared->rows_read(), shared->rows_taken());
        const Phase phase("the wait for the other groups");
        comm.long_barrier();
        if (first) finished[0] = coordinator->finished() ? 1 : 0;
    }
    comm.any(finished);
    return finished[0] != 0 ? exit_done : exit_stopped;
}

}  // namespace strata::train
