#include "train/job.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/phase.h"
#include "base/stop.h"
#include "comm/agree.h"
#include "data/stream.h"
#include "eval/evaluate.h"
#include "train/finish.h"
#include "train/finite.h"
#include "train/metrics.h"
#include "train/output.h"
#include "train/schedule.h"
#include "train/training.h"

namespace strata::train {
namespace {

constexpr std::int64_t calibration_rows = 65536;

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

void begin_checkpoint(Group& group, Training& t) {
    const Phase phase("the copy of a checkpoint");
    t.checkpoint_begun = std::chrono::steady_clock::now();
    for (const TrainedSae& sae : t.saes) check_finite(*t.bench, sae, t.progress.step);
    t.progress.cursors = gather_cursors(*t.stream, group.comm);
    t.checkpoints->begin(t.progress, t.saes);
}

// Waits for it. A run continued from it has the lines of metrics of all steps before.
void finish_checkpoint(Group& group, Training& t) {
    if (!t.checkpoints->pending()) return;
    const Phase phase("the end of a checkpoint");
    together(group.comm, [&] {
        if (group.comm.rank() == 0) group.line.settle();
    });
    t.checkpoints->finish();
    saving_took(std::chrono::steady_clock::now() - t.checkpoint_begun);
}

// Whether the group is to stop; completes the checkpoint that all ranks have written meanwhile.
bool between_steps(Group& group, Training& t) {
    const bool stop = stop_requested() || (group.comm.rank() == 0 && group.line.stopping());
    const bool writing = t.checkpoints->pending() && !t.checkpoints->written();
    std::array<std::uint32_t, 1> bits = {(stop ? 1U : 0U) | (writing ? 2U : 0U)};
    group.comm.any(bits);
    if ((bits[0] & 2U) == 0) finish_checkpoint(group, t);
    return (bits[0] & 1U) != 0;
}

// The batch just stepped on, as all ranks see it.
Metrics measure_step(Group& group, const TrainedSae& sae, const StepReport& report, std::int64_t rows,
                     std::int64_t step, double lr) {
    eval::Sums sums(sae.parameters.n, sae.parameters.width);
    if (sae.kind->elementwise())
        eval::add_batch(group.device, sae.parameters, rows, report.sums, report.codes.count, sums);
    else
        eval::add_batch(group.device, sae.parameters, rows, report.sums, sums);
    eval::reduce(group.comm, sums);
    Metrics m;
    m.step = step;
    m.tokens = step * group.config.train.batch_size;
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

// Logged lines of a step to the metrics and, without a bar, to the log.
void report_lines(Group& group, Training& t, std::vector<Metrics>& lines, double rows_per_second) {
    const data::LeftOut left_out = data::left_out(*t.stream, group.comm);
    if (group.comm.rank() != 0) return;
    std::string text;
    for (Metrics& line : lines) {
        line.rows_per_second = rows_per_second;
        line.left_out = left_out;
        text += to_json(line).dump() + '\n';
        if (t.tensorboard) t.tensorboard->write(line);
        if (!group.bar) log_metrics(line, group.config.train.steps());
    }
    group.line.metrics(text);
}

// Steps until the end of the job; false if asked to stop before.
bool train_steps(Group& group, Training& t) {
    const Config& config = group.config;
    const std::int64_t steps = config.train.steps();
    ProgressBar bar(group.bar, t.job.name, steps);
    Metrics latest;
    auto logged_at = std::chrono::steady_clock::now();
    std::int64_t logged_step = t.progress.step;
    while (t.progress.step < steps) {
        const std::int64_t step = t.progress.step;
        note_step(step);
        const data::Batch batch = [&] {
            const Phase phase("reading rows");
            return t.stream->next();
        }();
        const bool logging = (step + 1) % config.train.log_every == 0 || step + 1 == steps;
        std::vector<Metrics> lines;
        for (TrainedSae& sae : t.saes) {
            const Phase phase("a training step");
            const double lr = rate_at(sae.rate, config.optimizer, step, steps);
            const StepReport report = train_step(*t.bench, sae, config.optimizer, batch, step, lr);
            if (logging) lines.push_back(measure_step(group, sae, report, batch.rows, step + 1, lr));
        }
        ++t.progress.step;
        if (logging) {
            const auto now = std::chrono::steady_clock::now();
            const double seconds = std::chrono::duration<double>(now - logged_at).count();
            const auto rows = static_cast<double>((step + 1 - logged_step) * config.train.batch_size);
            report_lines(group, t, lines, rows / seconds);
            logged_at = now;
            logged_step = step + 1;
            latest = lines.front();
        }
        bar.show(step + 1, latest);
        const bool stop = between_steps(group, t);
        if (stop || t.progress.step == steps || t.progress.step % config.train.checkpoint_every == 0) {
            finish_checkpoint(group, t);
            begin_checkpoint(group, t);
        }
        if (stop && t.progress.step < steps) break;
    }
    finish_checkpoint(group, t);
    return t.progress.step == steps;
}

// Calibrates, measures on the held-out rows and saves every SAE of the job.
void finish(Group& group, Training& t, std::size_t index) {
    const Phase phase("measures on held-out rows");
    t.bench->gradient = {};  // makes room for the candidates of calibration and the copies of saving
    const Config& config = group.config;
    const data::InputStatistics& statistics = t.progress.statistics;
    const data::LeftOut left_out = data::left_out(*t.stream, group.comm);

    // The batches that training would have gone on with; for every SAE the same, whatever was trained beside
    // it.
    const std::vector<data::LaneCursor> cursors = gather_cursors(*t.stream, group.comm);
    const eval::EachBatch following = [&](const std::function<void(const data::Batch&)>& visit) {
        t.stream->rewind(cursors);
        const std::int64_t rows = std::min(calibration_rows, data::training_rows(t.job.dataset, config.data));
        for (std::int64_t i = 0; i < std::max<std::int64_t>(1, rows / config.train.batch_size); ++i)
            visit(t.stream->next());
    };

    nlohmann::json entries = nlohmann::json::array();
    for (TrainedSae& sae : t.saes)
        entries.push_back(finish_sae(*t.bench, sae, config, t.job.dataset, statistics, following, left_out));
    t.stream.reset();  // its memory serves the copies that saving makes
    together(group.comm, [&] {
        if (group.comm.rank() != 0) return;
        for (std::size_t i = 0; i < t.saes.size(); ++i) {
            save_sae(config.run.output, *t.bench, t.saes[i], t.job.dataset, statistics, config, entries[i]);
            log::info("{}: held-out fvu {:.4f}, L0 {:.1f}, cosine {:.4f}, dead {:.2f} %; saved in {}/saes/{}",
                      t.saes[i].name, entries[i].at("fvu").get<double>(), entries[i].at("l0").get<double>(),
                      entries[i].at("cosine").get<double>(),
                      100 * entries[i].at("dead_fraction").get<double>(), config.run.output, t.saes[i].name);
        }
        group.line.done(index, entries);
    });
}

}  // namespace

bool train_job(Group& group, const suite::Job& job, std::size_t index,
               const std::filesystem::path& checkpoints) {
    const Config& config = group.config;
    note_step(-1);
    const Phase phase("the start of a job");
    std::optional<Checkpoint> from;
    together(group.comm, [&] { from = newest_checkpoint(checkpoints); });
    Training training = begin_training(group, job, from);
    training.checkpoints = std::make_unique<CheckpointWriter>(checkpoints, group.device, group.replicas,
                                                              config.train.keep_checkpoints);
    if (group.comm.rank() == 0 && config.run.tensorboard) training.tensorboard.emplace(config.run.output);
    together(group.comm, [&] {
        if (group.comm.rank() == 0) group.line.started(index, training.progress.step);
    });
    const data::InputStatistics& s = training.progress.statistics;
    if (from) log::info("{}: continuing from {}", job.name, from->folder.string());
    log::info("{}: {} rows x {}, {} held out; scale {:.6g}, median norm {:.4g}, rows over {:.4g} are skipped",
              job.name, job.dataset.rows, job.dataset.n, config.data.eval_rows, s.scale, s.median_norm,
              s.norm_limit);
    if (!train_steps(group, training)) {
        if (group.comm.rank() == 0) {
            log::warn(
                "stopped on request, or short of the time limit, at step {} of {} of {}; a checkpoint is "
                "saved, "
                "continue with --resume",
                training.progress.step, config.train.steps(), job.name);
            group.line.stop();
        }
        return false;
    }
    finish(group, training, index);
    return true;
}

}  // namespace strata::train
