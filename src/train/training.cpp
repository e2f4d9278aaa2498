#include "train/training.h"

#include <algorithm>
#include <cmath>

#include "comm/agree.h"
#include "data/fit.h"
#include "device/gpu.h"
#include "sae/sae.h"
#include "train/finish.h"
#include "train/schedule.h"

namespace strata::train {
namespace {

// Ranks wait for each other's rows in the sums on GPUs: these may take longer than a sign of life.
constexpr double patience_with_sums = 10;

bool begins_fitted(const TrainedSae& sae) {
    return sae::begins_fitted(sae.config, sae.parameters.transcoder);
}

// sqrt(E|x - b_dec|^2) of scaled rows. Of a transcoder that begins fitted those of x map + offset; another
// takes no b_dec from its input.
double spread_at_start(const TrainedSae& sae, const data::InputStatistics& statistics,
                       const data::TargetFit& fit) {
    const bool from_mean = sae.config.b_dec_init == "mean";
    double square = statistics.mean_square;
    if (begins_fitted(sae)) {
        square = fit.mean_square;
        for (const double mean : statistics.target_mean) square += from_mean ? 0 : mean * mean;
    } else if (from_mean && !sae.parameters.transcoder) {
        for (const double mean : statistics.mean) square -= mean * mean;
    }
    return statistics.scale * std::sqrt(std::max(square, 0.0));
}

// The matrices and b_dec as they begin.
void initialise(Group& group, TrainedSae& sae, const data::InputStatistics& statistics,
                const data::TargetFit& fit) {
    const auto n = static_cast<std::size_t>(sae.parameters.n);
    const std::vector<double>& mean = sae.parameters.transcoder ? statistics.target_mean : statistics.mean;
    std::vector<float> b_dec(n, 0.0F), offset;
    if (sae.config.b_dec_init == "mean")
        for (std::size_t c = 0; c < n; ++c) b_dec[c] = static_cast<float>(statistics.scale * mean[c]);
    sae::Encoding encoding{.norm = sae::beginning_of(sae.config, sae.parameters).encoder_norm};
    if (begins_fitted(sae)) {
        for (std::size_t c = 0; c < n; ++c) {
            double at = mean[c];
            for (std::size_t i = 0; i < n; ++i) at -= statistics.mean[i] * fit.map[i * n + c];
            offset.push_back(static_cast<float>(statistics.scale * at) - b_dec[c]);
        }
        encoding.map = fit.map;
        encoding.offset = offset;
    }
    const Slice mine = group.replicas.written(sae.config.width);
    sae::initialise(group.device, sae.parameters, group.config.run.seed, b_dec, encoding, mine.first,
                    mine.last);
}

}  // namespace

Training begin_training(Group& group, const suite::Job& job, const std::optional<Checkpoint>& from) {
    const Config& config = group.config;
    Training t{.job = job,
               .saes = {},
               .progress = {},
               .bench = nullptr,
               .reducer = nullptr,
               .sums = nullptr,
               .stream = nullptr,
               .checkpoints = nullptr,
               .tensorboard = {},
               .checkpoint_begun = {}};
    if (from) {
        t.progress = from->progress;
    } else {
        t.progress.statistics = data::measure(job.dataset, config.data, group.comm);
    }
    const data::InputStatistics& statistics = t.progress.statistics;
    const std::int64_t n = job.dataset.n;
    const std::int64_t rows =
        data::local_rows(config.train.batch_size, config.data.lanes, group.comm.rank(), group.comm.size());

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
    const std::int64_t most_rows = std::max(rows, config.train.batch_size / group.comm.size() + 1);
    const std::int64_t rows_at_once = hold_rows(group.device, group.micro_batch, most_rows);
    group.device.prepare(most_rows, n, largest.width,
                         static_cast<std::int64_t>(k * static_cast<double>(rows)) + 1);
    for (std::size_t i = 0; i < job.saes.size(); ++i) {
        TrainedSae& sae =
            t.saes.emplace_back(make_sae(group.device, group.replicas, job.saes[i], job.names[i], shapes[i]));
        sae.rate = config.optimizer.lr.value_or(
            automatic_rate(sae.config, config.train.batch_size, config.train.tokens));
    }
    data::TargetFit fit;
    if (!from) {
        if (std::ranges::any_of(t.saes, begins_fitted))
            fit = data::fit_target(job.dataset, config.data, statistics, group.comm);
        for (TrainedSae& sae : t.saes) initialise(group, sae, statistics, fit);
        fit.map = {};  // room for what comes
    }
    together(group.comm, [&] {
        if (from) load_checkpoint(*from, t.saes, group.device, group.replicas);
    });

    t.reducer = std::make_unique<Reducer>(*group.replicas.across, group.spare_core);
    t.sums = device::make_device_sums(group.comm, group.device, patience_with_sums * config.run.watchdog);
    t.bench = std::make_unique<Workbench>(make_workbench(group.device, group.replicas, *t.reducer,
                                                         t.sums.get(), largest, config.train.batch_size));
    t.bench->steps = config.train.steps();
    t.bench->mean_square = statistics.scale * statistics.scale * statistics.mean_square;
    t.bench->seed = config.run.seed;
    t.bench->rows_at_once = rows_at_once;
    if (!from)
        for (TrainedSae& sae : t.saes) {
            start_own(*t.bench, sae, spread_at_start(sae, statistics, fit));
            if (!sae.config.init_from.empty())
                together(group.comm, [&] { start_from_saved(*t.bench, sae, statistics.scale); });
            start_average(*t.bench, sae, config.optimizer);
        }
    group.comm.barrier();  // the ranks that share memory have filled their parts
    t.stream = std::make_unique<data::Stream>(job.dataset, config.data, statistics, config.train.batch_size,
                                              config.run.seed, group.comm.rank(), group.comm.size(),
                                              t.progress.cursors, &group.device);
    return t;
}

}  // namespace strata::train
