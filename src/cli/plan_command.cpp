// `strata plan`: what a configuration would run where, how much memory it would take and how long, from the
// same functions by which `strata train` divides its ranks. Nothing is started and nothing written.

#include <omp.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/plan_report.h"
#include "config/config.h"
#include "data/dataset.h"
#include "data/stream.h"
#include "device/gpu.h"
#include "suite/gpu_memory.h"
#include "suite/memory.h"
#include "suite/predict.h"
#include "train/trial.h"

namespace strata::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
    std::string config;
    std::vector<std::string> set;
    int ranks = 1, ranks_per_host = 0, threads = 0;
    double memory = 0;      // GiB of a host; 0: this one's
    double gpu_memory = 0;  // GiB free on a GPU; 0: this host's
    double calibrate = 1.5;
    double product_rate = 0, memory_rate = 0, link_rate = 1.25;  // in 10^9
    bool json = false;
};

// Of single SAEs, tried out on this machine; each shape once.
class Trials {
  public:
    Trials(const Config& config, double seconds, int threads)
        : config_(config), seconds_(seconds), threads_(threads) {}

    double step(const suite::Job& job, SaeConfig sae, std::int64_t rows) {
        sae.k = suite::active_of(sae);
        for (const Tried& one : tried_)
            if (one.sae == sae && one.n == job.dataset.n && one.rows == rows) return one.seconds;
        suite::Job single = job;
        single.saes = {sae};
        const suite::Place here{.threads = threads_};
        const std::int64_t needed = suite::rank_memory(single, config_, here, true).total();
        if (needed > host_memory() / 10 * 9)
            refuse(
                "{} with {} latents takes {:.1f} GiB in one process and cannot be tried on this machine; "
                "give --product-rate and --memory-rate",
                job.dataset.name, sae.width, static_cast<double>(needed) / gib);
        const train::TrialRows& batches = rows_of(job.dataset, rows);
        const double taken = train::trial_step(batches, sae, config_, threads_, seconds_);
        tried_.push_back({sae, job.dataset.n, rows, taken});
        log::info("{} of {} latents, {} rows x {}, {} thread{}: {:.1f} ms a step", sae.kind, sae.width, rows,
                  job.dataset.n, threads_, threads_ == 1 ? "" : "s", 1e3 * taken);
        return taken;
    }
    double read(const data::Dataset& dataset, std::int64_t rows) {
        return rows_of(dataset, rows).read_seconds;
    }
    double memory() {
        if (memory_ == 0) memory_ = train::copy_rate(threads_);
        return memory_;
    }

  private:
    struct Tried {
        SaeConfig sae;
        std::int64_t n, rows;
        double seconds;
    };
    // Datasets of one width are alike.
    const train::TrialRows& rows_of(const data::Dataset& dataset, std::int64_t rows) {
        auto& known = batches_[{dataset.n, dataset.target != nullptr, rows}];
        if (known.x.empty()) known = train::trial_rows(dataset, config_, rows);
        return known;
    }

    const Config& config_;
    double seconds_;
    int threads_;
    double memory_ = 0;
    std::vector<Tried> tried_;
    std::map<std::tuple<std::int64_t, bool, std::int64_t>, train::TrialRows> batches_;
};

// Free on the GPU of each rank, of a run that would take GPUs; else 0.
std::int64_t gpu_memory_of(const Arguments& a, const Config& config) {
    if (config.run.device == "cpu") return 0;
    const device::FoundGpus& here = device::find_gpus();
    if (here.gpus.empty() && a.product_rate == 0 && (a.gpu_memory > 0 || config.run.device == "cuda"))
        refuse(
            "run.device: the steps of a GPU cannot be tried on this host ({}); give --gpu-memory, "
            "--product-rate "
            "and --memory-rate, those of the GPUs of a host together, or plan with --set run.device=cpu",
            here.why_none);
    if (a.gpu_memory > 0) return static_cast<std::int64_t>(a.gpu_memory * gib);
    if (here.gpus.empty() && config.run.device == "cuda") refuse("run.device: cuda: give --gpu-memory");
    return here.gpus.empty() ? 0 : here.gpus.front().memory;
}

int plan(const Arguments& a) {
    start_log(0, 1, a.json);
    Config config = load_config(a.config, a.set);
    const std::vector<data::Dataset> datasets =
        data::find_datasets(config.data.files, config.data.datasets, config.data.target);
    for (const data::Dataset& dataset : datasets) data::training_rows(dataset, config.data);
    const int per_host = a.ranks_per_host > 0 ? std::min(a.ranks_per_host, a.ranks) : a.ranks;
    const int here = omp_get_num_procs();
    const int threads = a.threads > 0             ? a.threads
                        : config.parallel.threads ? static_cast<int>(*config.parallel.threads)
                                                  : std::max(1, here / per_host);
    const std::int64_t memory = a.memory > 0 ? static_cast<std::int64_t>(a.memory * gib) : host_memory();
    suite::Machine machine = suite::equal_hosts(a.ranks, per_host, memory, threads);
    machine.gpu_memory = gpu_memory_of(a, config);
    const suite::Layout layout = suite::layout_in_memory(config, datasets, machine);
    if (layout.micro_batch > 0) config.parallel.micro_batch = layout.micro_batch;
    const std::vector<suite::Job> jobs = suite::jobs_of(config, datasets, layout.saes_per_job);
    const suite::HostLoad fullest = suite::fullest_host(config, jobs, layout.groups, machine);
    const suite::GpuLoad gpu = suite::fullest_gpu(config, jobs, layout.groups, machine);
    const bool on_gpus = machine.gpu_memory > 0;

    // Where the hosts have more cores than this one, their steps are taken to be shorter by as much.
    const int cores = threads * per_host, tried = std::min(cores, here);
    const bool given = a.product_rate > 0;
    Trials trials(config, a.calibrate, tried);
    suite::Rates rates;
    rates.link = a.link_rate * 1e9;
    rates.memory = given ? a.memory_rate * 1e9 : trials.memory();
    rates.sae_seconds = [&](const suite::Job& job, const SaeConfig& sae, std::int64_t rows) {
        return given     ? suite::sae_seconds(job, sae, rows, a.product_rate * 1e9, rates.memory)
               : on_gpus ? trials.step(job, sae, rows) / per_host  // as many GPUs as ranks
                         : trials.step(job, sae, rows) * tried / cores;
    };
    rates.read_seconds = [&](const data::Dataset& dataset, std::int64_t rows) {
        return given ? 0 : trials.read(dataset, rows);
    };

    const auto place_of = [&](int group) {
        return suite::place_of(machine, suite::ranks_of(group, layout.groups, a.ranks));
    };
    const auto step = [&](std::size_t job, int group) {
        return suite::step_seconds(jobs[job], config, place_of(group), cores, rates);
    };
    const auto steps = static_cast<double>(config.train.steps());
    Json result = {
        {"ranks", a.ranks},
        {"hosts", machine.memory.size()},
        {"ranks_per_host", per_host},
        {"threads", threads},
        {"groups", layout.groups},
        {"saes_per_job", layout.saes_per_job},
        {"micro_batch", layout.micro_batch},
        {"memory",
         {{"host", memory},
          {"room", fullest.room},
          {"needed", fullest.needed},
          {"shared_rows", fullest.shared_rows}}},
        {"gpu_memory",
         on_gpus ? Json{{"free", machine.gpu_memory}, {"room", gpu.room}, {"needed", gpu.needed}} : Json()},
        {"times", given ? "rates" : "calibration"},
        {"hours", 0.0},
        {"jobs", Json::array()}};
    double end = 0;
    for (const suite::Turn& turn :
         suite::turns_of(suite::order_of(jobs), layout.groups,
                         [&](std::size_t job, int group) { return steps * step(job, group); })) {
        const suite::Place place = place_of(turn.group);
        result["jobs"].push_back(
            job_json({jobs[turn.job], turn, place, suite::rank_memory(jobs[turn.job], config, place, true),
                      suite::gpu_memory(jobs[turn.job], config, place), step(turn.job, turn.group)},
                     config));
        end = std::max(end, turn.end);
    }
    result["hours"] = end / 3600;
    if (a.json)
        fmt::print("{}\n", result.dump(2));
    else
        print_table(result);
    return exit_done;
}

}  // namespace

void add_plan_command(CLI::App& app, Action& action) {
    auto arguments = std::make_shared<Arguments>();
    Arguments& a = *arguments;
    CLI::App* command = app.add_subcommand(
        "plan", "What a configuration would run where, the memory and the time it would take");
    command->add_option("config", a.config, "Configuration, YAML (docs/configuration.md)")->required();
    command->add_option("--set", a.set, "section.key=value, on top of the file; may be repeated")
        ->allow_extra_args(false);
    command->add_option("--ranks", a.ranks, "Ranks of the run")->check(positive);
    command->add_option("--ranks-per-host", a.ranks_per_host, "Of them on each host; all by default")
        ->check(positive);
    command->add_option("--threads", a.threads, "Of each rank; by default its share of this machine's cores")
        ->check(positive);
    command->add_option("--memory", a.memory, "GiB of a host; by default what this one has")->check(positive);
    command
        ->add_option("--gpu-memory", a.gpu_memory,
                     "GiB free on the GPU of each rank; by default what this host's have")
        ->check(positive);
    command
        ->add_option("--calibrate", a.calibrate, "Seconds for which steps of each shape are tried out here")
        ->check(positive);
    CLI::Option* product = command->add_option(
        "--product-rate", a.product_rate,
        "10^9 operations a second of a host's encoder product, instead of trying; needs --memory-rate");
    CLI::Option* memory =
        command->add_option("--memory-rate", a.memory_rate, "10^9 bytes a second of a host's memory");
    product->check(positive)->needs(memory);
    memory->check(positive)->needs(product);
    command->add_option("--link-rate", a.link_rate, "10^9 bytes a second of a host's link to others")
        ->check(positive);
    command->add_flag("--json", a.json, "One JSON object (docs/plan.md)");
    command->footer(
        "Starts nothing and writes nothing. Exit status 2 where the configuration has no room in memory, "
        "with "
        "what would have.\n"
        "Example: strata plan configs/quickstart.yaml --ranks 8 --ranks-per-host 2 --threads 16 --memory 64");
    command->callback([arguments, &action] { action = [arguments] { return plan(*arguments); }; });
}

}  // namespace strata::cli
