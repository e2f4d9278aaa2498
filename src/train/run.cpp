#include "train/run.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/stop.h"
#include "comm/agree.h"
#include "comm/reducer.h"
#include "data/dataset.h"
#include "eval/evaluate.h"
#include "sae/sae.h"
#include "suite/suite.h"
#include "train/checkpoint.h"
#include "train/finish.h"
#include "train/finite.h"
#include "train/metrics.h"
#include "train/output.h"
#include "train/schedule.h"
#include "train/step.h"
#include "train/tensorboard.h"

namespace strata::train {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t calibration_rows = 65536;

// What stays the same for all jobs of a run.
struct Run {
    const Config& config;
    const RunOptions& options;
    Communicator& comm;
    std::string fingerprint;
    int threads = 1;
    bool spare_core = false;
    std::unique_ptr<device::Device> device;
    std::unique_ptr<Replicas> replicas;
    std::unique_ptr<MetricsFile> metrics;                        // rank 0
    std::optional<TensorboardFiles> tensorboard = std::nullopt;  // rank 0, if asked for
};

// Cores this rank may use: its own if ranks are bound to different ones, else its share of the node's.
void share_cores(Run& run) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    sched_getaffinity(0, sizeof mask, &mask);
    const int cores = std::max(1, CPU_COUNT(&mask));
    std::uint64_t mine = 0xcbf29ce484222325U;  // FNV-1a of the mask
    for (std::size_t i = 0; i < sizeof mask; ++i)
        mine = (mine ^ reinterpret_cast<const unsigned char*>(&mask)[i]) * 0x100000001b3U;
    std::vector<std::uint64_t> all(static_cast<std::size_t>(run.comm.size()));
    run.comm.gather({&mine, 1}, all);
    const bool shared = std::ranges::all_of(all, [&](std::uint64_t m) { return m == mine; });
    const int share = std::max(1, shared ? cores / run.comm.ranks_on_node() : cores);
    run.threads = run.config.parallel.threads ? static_cast<int>(*run.config.parallel.threads) : share;
    run.spare_core = run.threads < share;
}

// One dataset and the SAEs on its stream.
struct Training {
    const suite::Job& job;
    std::vector<TrainedSae> saes;
    Progress progress;
    std::unique_ptr<Workbench> bench;
    std::unique_ptr<Reducer> reducer;
    std::unique_ptr<data::Stream> stream;
    std::int64_t first_number = 0;  // steps of all datasets before this one
};

std::int64_t training_rows(const suite::Job& job, const Config& config) {
    return job.dataset.rows - config.data.eval_rows;
}

// SAEs and stream as they begin, or as the checkpoint has them.
Training begin(Run& run, const suite::Job& job, std::int64_t index, const std::optional<Checkpoint>& from) {
    const Config& config = run.config;
    Training t{
        .job = job, .saes = {}, .progress = {}, .bench = nullptr, .reducer = nullptr, .stream = nullptr};
    if (from) {
        t.progress = from->progress;
    } else {
        t.progress.job = index;
        t.progress.statistics = data::measure(job.dataset, config.data, run.comm);
    }
    const data::InputStatistics& statistics = t.progress.statistics;
    const std::int64_t n = job.dataset.n;
    const std::int64_t rows =
        data::local_rows(config.train.batch_size, config.data.lanes, run.comm.rank(), run.comm.size());

    device::Shape largest;
    double k = 0;
    std::vector<device::Shape> shapes;
    for (const SaeConfig& sae : job.saes) {
        const device::Shape& shape = shapes.emplace_back(sae::shape_of(sae, n, !config.data.target.empty()));
        largest.n = n;
        largest.width = std::max(largest.width, shape.width);
        largest.per_latent = std::max(largest.per_latent, shape.per_latent);
        largest.skip = largest.skip || shape.skip;
        if (!sae::kind_of(sae.kind).elementwise()) k = std::max(k, sae.k);
    }
    // Held-out batches are cut evenly, without lanes.
    const std::int64_t most_rows = std::max(rows, config.train.batch_size / run.comm.size() + 1);
    run.device->prepare(most_rows, n, largest.width,
                        static_cast<std::int64_t>(k * static_cast<double>(rows)) + 1);
    for (std::size_t i = 0; i < job.saes.size(); ++i) {
        TrainedSae& sae =
            t.saes.emplace_back(make_sae(*run.device, *run.replicas, job.saes[i], job.names[i], shapes[i]));
        sae.rate = config.optimizer.lr.value_or(
            automatic_rate(sae.config, config.train.batch_size, config.train.tokens));
        if (from) continue;
        std::vector<float> b_dec(static_cast<std::size_t>(n), 0.0F);
        const std::vector<double>& mean =
            sae.parameters.transcoder ? statistics.target_mean : statistics.mean;
        if (sae.config.b_dec_init == "mean")
            for (std::size_t c = 0; c < b_dec.size(); ++c)
                b_dec[c] = static_cast<float>(statistics.scale * mean[c]);
        const Slice mine = run.replicas->updated(sae.config.width);
        sae::initialise(*run.device, sae.parameters, config.run.seed, b_dec, mine.first, mine.last);
    }
    together(run.comm, [&] {
        if (from) load_checkpoint(*from, t.saes, *run.device, *run.replicas);
    });

    t.reducer = std::make_unique<Reducer>(*run.replicas->across, run.spare_core);
    t.bench = std::make_unique<Workbench>(
        make_workbench(*run.device, *run.replicas, *t.reducer, largest, config.train.batch_size));
    t.bench->steps = config.train.steps();
    t.bench->mean_square = statistics.scale * statistics.scale * statistics.mean_square;
    t.bench->seed = config.run.seed;
    if (!from)
        for (TrainedSae& sae : t.saes) {
            start_own(*t.bench, sae);
            if (!sae.config.init_from.empty())
                together(run.comm, [&] { start_from_saved(*t.bench, sae, statistics.scale); });
            start_average(*t.bench, sae, config.optimizer);
        }
    run.comm.barrier();  // the ranks that share memory have filled their parts
    t.stream =
        std::make_unique<data::Stream>(job.dataset, config.data, statistics, config.train.batch_size,
                                       config.run.seed, run.comm.rank(), run.comm.size(), t.progress.cursors);
    t.first_number = index * config.train.steps();
    return t;
}

// All lanes' cursors, from all ranks.
std::vector<data::LaneCursor> gather_cursors(const data::Stream& stream, Communicator& comm) {
    std::vector<data::LaneCursor> cursors = stream.cursors();
    std::vector<std::uint64_t> flat;
    for (const data::LaneCursor& c : cursors)
        flat.insert(flat.end(), {c.pass, c.block, c.offset, c.skipped, c.corrupt});
    comm.sum(flat);
    for (std::size_t l = 0; l < cursors.size(); ++l)
        cursors[l] = {flat[5 * l], flat[5 * l + 1], flat[5 * l + 2], flat[5 * l + 3], flat[5 * l + 4]};
    return cursors;
}

void checkpoint(Run& run, Training& t) {
    for (const TrainedSae& sae : t.saes) check_finite(*t.bench, sae, t.progress.step);
    t.progress.cursors = gather_cursors(*t.stream, run.comm);
    if (run.metrics) t.progress.metrics_bytes = run.metrics->flush();
    save_checkpoint(run.config.run.output, t.first_number + t.progress.step, run.fingerprint, t.progress,
                    t.saes, *run.device, *run.replicas, run.config.train.keep_checkpoints);
}

bool asked_to_stop(Communicator& comm) {
    std::array<std::uint32_t, 1> stop = {stop_requested() ? 1U : 0U};
    comm.any(stop);
    return stop[0] != 0;
}

// The batch just stepped on, as all ranks see it.
Metrics measure_step(Run& run, const TrainedSae& sae, const StepReport& report, std::int64_t rows,
                     std::int64_t step, double lr) {
    eval::Sums sums(sae.parameters.n, sae.parameters.width);
    eval::add_batch(*run.device, sae.parameters, rows, report.sums, sums);
    eval::reduce(run.comm, sums);
    Metrics m;
    m.step = step;
    m.tokens = step * run.config.train.batch_size;
    m.sae = sae.name;
    m.batch = eval::measures(sums);
    m.loss = m.batch.over_prefixes + report.auxiliary_loss + report.penalty;
    m.penalty = report.penalty;
    m.auxiliary = report.auxiliary_loss;
    m.resampled = report.resampled;
    if (sae.config.atm) m.atm = report.atm;
    m.dead_fraction = static_cast<double>(report.dead) / static_cast<double>(sae.config.width);
    m.threshold = report.threshold;
    m.lr = lr;
    m.grad_norm = report.gradient_norm;
    return m;
}

void log_metrics(const Metrics& m, std::int64_t steps) {
    log::info("{} step {}/{}: loss {:.4f}, fvu {:.4f}, L0 {:.1f}, dead {:.2f} %, lr {:.2e}, {:.0f} rows/s",
              m.sae, m.step, steps, m.loss, m.batch.fvu, m.batch.l0, 100 * m.dead_fraction, m.lr,
              m.rows_per_second);
}

// Steps until the end of the job; false if asked to stop before.
bool train_steps(Run& run, Training& t) {
    const Config& config = run.config;
    const std::int64_t steps = config.train.steps();
    const bool leader = run.comm.rank() == 0;
    ProgressBar bar(leader && !run.options.quiet, t.job.dataset.name, steps);
    const bool bar_shown = leader && !run.options.quiet && isatty(STDERR_FILENO) != 0;
    Metrics latest;
    auto logged_at = std::chrono::steady_clock::now();
    std::int64_t logged_step = t.progress.step;
    while (t.progress.step < steps) {
        const std::int64_t step = t.progress.step;
        const data::Batch batch = t.stream->next();
        const bool logging = (step + 1) % config.train.log_every == 0 || step + 1 == steps;
        std::vector<Metrics> lines;
        for (TrainedSae& sae : t.saes) {
            const double lr = rate_at(sae.rate, config.optimizer, step, steps);
            const StepReport report = train_step(*t.bench, sae, config.optimizer, batch, step, lr);
            if (logging) lines.push_back(measure_step(run, sae, report, batch.rows, step + 1, lr));
        }
        ++t.progress.step;
        if (logging) {
            const data::LeftOut left_out = data::left_out(*t.stream, run.comm);
            const auto now = std::chrono::steady_clock::now();
            const double seconds = std::chrono::duration<double>(now - logged_at).count();
            const double rate =
                static_cast<double>((step + 1 - logged_step) * config.train.batch_size) / seconds;
            logged_at = now;
            logged_step = step + 1;
            for (Metrics& line : lines) {
                line.rows_per_second = rate;
                line.left_out = left_out;
                if (!run.metrics) continue;
                run.metrics->write(line);
                if (run.tensorboard) run.tensorboard->write(line);
                if (!bar_shown) log_metrics(line, steps);
            }
            if (run.metrics) run.metrics->flush();
            latest = lines.front();
        }
        bar.show(step + 1, latest);
        const bool stop = asked_to_stop(run.comm);
        if (stop || t.progress.step == steps || t.progress.step % config.train.checkpoint_every == 0)
            checkpoint(run, t);
        if (stop && t.progress.step < steps) return false;
    }
    return true;
}

// Calibrates, measures on the held-out rows and saves every SAE of the job.
void finish(Run& run, Training& t) {
    t.bench->gradient = {};  // makes room for the candidates of calibration and the copies of saving
    const Config& config = run.config;
    const data::InputStatistics& statistics = t.progress.statistics;
    const data::LeftOut left_out = data::left_out(*t.stream, run.comm);

    // The batches that training would have gone on with; for every SAE the same, whatever was trained beside
    // it.
    const std::vector<data::LaneCursor> cursors = gather_cursors(*t.stream, run.comm);
    const eval::EachBatch following = [&](const std::function<void(const data::Batch&)>& visit) {
        t.stream->rewind(cursors);
        const std::int64_t rows = std::min(calibration_rows, training_rows(t.job, config));
        for (std::int64_t i = 0; i < std::max<std::int64_t>(1, rows / config.train.batch_size); ++i)
            visit(t.stream->next());
    };

    nlohmann::json entries = nlohmann::json::array();
    for (TrainedSae& sae : t.saes)
        entries.push_back(finish_sae(*t.bench, sae, config, t.job.dataset, statistics, following, left_out));
    t.stream.reset();  // its memory serves the copies that saving makes
    together(run.comm, [&] {
        if (run.comm.rank() != 0) return;
        for (std::size_t i = 0; i < t.saes.size(); ++i) {
            save_sae(config.run.output, *t.bench, t.saes[i], t.job.dataset, statistics, config, entries[i]);
            log::info("{}: held-out fvu {:.4f}, L0 {:.1f}, cosine {:.4f}, dead {:.2f} %; saved in {}/saes/{}",
                      t.saes[i].name, entries[i].at("fvu").get<double>(), entries[i].at("l0").get<double>(),
                      entries[i].at("cosine").get<double>(),
                      100 * entries[i].at("dead_fraction").get<double>(), config.run.output, t.saes[i].name);
        }
        add_to_summary(config.run.output, entries);
    });
}

}  // namespace

int run(const Config& config, const RunOptions& options, Communicator& comm) {
    Run run{.config = config,
            .options = options,
            .comm = comm,
            .fingerprint = fingerprint(config),
            .threads = 1,
            .spare_core = false,
            .device = nullptr,
            .replicas = nullptr,
            .metrics = nullptr};
    std::vector<suite::Job> jobs;
    OutputLock lock;
    std::optional<Checkpoint> from;
    together(comm, [&] {
        jobs = suite::jobs_of(config, data::find_datasets(config.data.files, config.data.datasets,
                                                          config.data.target, config.data.skip_corrupt));
    });
    together(comm, [&] {
        if (comm.size() > config.data.lanes)
            refuse("data.lanes: {} lanes cannot feed {} ranks; start fewer ranks or raise data.lanes",
                   config.data.lanes, comm.size());
        if (config.parallel.data.value_or(comm.size()) != comm.size())
            refuse(
                "parallel.data: {} replicas asked for, {} rank{} started; every rank is a replica: start as "
                "many "
                "ranks, or leave it at auto",
                *config.parallel.data, comm.size(), comm.size() == 1 ? "" : "s");
        for (const suite::Job& job : jobs)
            if (training_rows(job, config) < config.data.lanes)
                refuse(
                    "data.eval_rows: dataset '{}' has {} rows; less {} held out, {} remain for training, and "
                    "data.lanes = {} is the least",
                    job.dataset.name, job.dataset.rows, config.data.eval_rows, training_rows(job, config),
                    config.data.lanes);
    });
    together(comm, [&] {
        if (comm.rank() == 0) lock = open_output(config, options.resume);
    });
    together(comm, [&] {
        if (options.resume) from = newest_checkpoint(config.run.output);
        if (from && from->fingerprint != run.fingerprint)
            refuse(
                "{}: made under another configuration; to continue it, restore these settings, or choose "
                "another "
                "run.output\n  checkpoint: {}\n  now:        {}",
                from->folder.string(), from->fingerprint, run.fingerprint);
    });
    together(comm, [&] {
        if (comm.rank() == 0) write_file(fs::path(config.run.output) / "config.yaml", to_yaml(config));
    });
    keep_log(fs::path(config.run.output) / "logs", comm.rank());
    share_cores(run);
    together(comm, [&] {
        run.device = device::make_cpu_device(run.threads, {config.run.encoder, config.run.screen_bound});
    });
    run.replicas = std::make_unique<Replicas>(comm);
    together(comm, [&] {
        if (comm.rank() == 0)
            run.metrics = std::make_unique<MetricsFile>(fs::path(config.run.output) / "metrics.jsonl",
                                                        from ? from->progress.metrics_bytes : 0);
        if (comm.rank() == 0 && config.run.tensorboard) run.tensorboard.emplace(config.run.output);
    });
    if (options.resume)
        log::info("{}", from ? fmt::format("continuing from {}", from->folder.string())
                             : "no checkpoint yet: starting anew");
    log::info("{} rank{} on {}; {} dataset{}, {} SAE{} each, {} steps of {} rows", comm.size(),
              comm.size() == 1 ? "" : "s", run.device->name(), jobs.size(), jobs.size() == 1 ? "" : "s",
              config.saes.size(), config.saes.size() == 1 ? "" : "s", config.train.steps(),
              config.train.batch_size);

    const std::int64_t first = from ? from->progress.job : 0;
    for (std::int64_t index = first; index < std::ssize(jobs); ++index) {
        const suite::Job& job = jobs[static_cast<std::size_t>(index)];
        Training training = begin(run, job, index, index == first ? from : std::nullopt);
        const data::InputStatistics& s = training.progress.statistics;
        log::info(
            "{}: {} rows x {}, {} held out; scale {:.6g}, median norm {:.4g}, rows over {:.4g} are skipped",
            job.dataset.name, job.dataset.rows, job.dataset.n, config.data.eval_rows, s.scale, s.median_norm,
            s.norm_limit);
        if (warmup_steps(config.optimizer, config.train.steps()) < config.optimizer.warmup_steps)
            log::info("warm-up shortened from {} to {} steps, a tenth of the run",
                      config.optimizer.warmup_steps, warmup_steps(config.optimizer, config.train.steps()));
        if (!train_steps(run, training)) {
            if (comm.rank() == 0)
                log::warn(
                    "stopped on request at step {} of {} of {}; a checkpoint is saved, continue with "
                    "--resume",
                    training.progress.step, config.train.steps(), job.dataset.name);
            return exit_stopped;
        }
        finish(run, training);
    }
    return exit_done;
}

}  // namespace strata::train
