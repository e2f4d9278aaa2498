#include "train/trial.h"

#include <algorithm>
#include <chrono>

#include "comm/agree.h"
#include "comm/self.h"
#include "device/gpu.h"
#include "sae/sae.h"
#include "train/schedule.h"

namespace strata::train {
namespace {

constexpr int trial_batches = 4;
constexpr int settling_steps = 8;

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void begin_sparse(Workbench& bench, TrainedSae& sae, const data::Batch& batch) {
    bench.device.center(data::rows_of(batch), sae.parameters);
    float guess = 0, margin = 0;
    const float threshold = sae::batch_topk.select({bench.device, bench.comm(), bench.sums, sae.parameters,
                                                    sae.config, bench.batch_size, batch.rows, guess, margin});
    const bool by_bias = sae.kind->per_latent != 1;  // all but JumpReLU
    std::vector<float> values(sae.silent.size(), by_bias ? -threshold : threshold);
    bench.device.upload(std::as_bytes(std::span(values)),
                        by_bias ? sae.parameters.b_enc.data() : sae.parameters.latent.data());
}

// As a run begins, whose mean is that of more rows. Without it few latents would have most of the pairs.
// Collective: the same on all ranks.
std::vector<float> first_bias(Communicator& comm, const SaeConfig& config, const device::Shape& shape,
                              std::int64_t batch_size, const data::Batch& batch) {
    const auto n = static_cast<std::size_t>(shape.n);
    std::vector<double> mean(n, 0.0);
    const std::span<const float> rows = batch.target.empty() ? batch.x : batch.target;
    if (config.b_dec_init == "mean")
        for (std::size_t i = 0; i < rows.size(); ++i)
            mean[i % n] += rows[i] / static_cast<double>(batch_size);
    comm.sum(mean);
    return {mean.begin(), mean.end()};
}

// Makes room in the device first, as a job does.
TrainedSae prepared(device::Device& device, const Replicas& replicas, const SaeConfig& config,
                    const device::Shape& shape, std::int64_t rows, std::int64_t micro_batch) {
    hold_rows(device, micro_batch, rows);
    device.prepare(rows, shape.n, shape.width,
                   static_cast<std::int64_t>(config.k * static_cast<double>(rows)) + 1);
    return make_sae(device, replicas, config, "trial", shape);
}

}  // namespace

Trial::Trial(device::Device& device, Communicator& comm, const SaeConfig& config, const device::Shape& shape,
             std::int64_t batch_size, const data::Batch& batch, double scale, std::int64_t micro_batch)
    : replicas(comm, device),
      reducer(*replicas.across, false),
      sums(device::make_device_sums(comm, device, 0)),
      sae(prepared(device, replicas, config, shape, batch.rows, micro_batch)),
      bench(make_workbench(device, replicas, reducer, sums.get(), shape, batch_size)) {
    bench.rows_at_once = hold_rows(device, micro_batch, batch.rows);
    const Slice slice = replicas.written(config.width);
    // Encoder rows as long as the decoder's: pre-activations are then of the size that training leaves.
    sae::initialise(device, sae.parameters, 0, first_bias(comm, config, shape, batch_size, batch), {},
                    slice.first, slice.last);
    start_own(bench, sae, 1);
    if (!config.init_from.empty()) together(comm, [&] { start_from_saved(bench, sae, scale); });
    comm.barrier();
    if (!sae.kind->elementwise()) return;
    if (config.init_from.empty()) begin_sparse(bench, sae, batch);
    sae.density = config.k / static_cast<double>(config.width);
}

data::Batch TrialRows::batch(std::size_t i) const {
    const std::size_t at = i % x.size();
    return {.x = x[at],
            .rows = static_cast<std::int64_t>(x[at].size()) / n,
            .target = targets.empty() ? std::span<const float>() : std::span<const float>(targets[at])};
}

TrialRows trial_rows(const data::Dataset& dataset, const Config& config, std::int64_t batch_size) {
    const std::unique_ptr<Communicator> alone = make_self_communicator();
    DataConfig own = config.data;
    own.shuffle_rows = std::max(2 * batch_size, 2 * own.lanes);  // a batch is as many rows as are read for it
    data::Stream stream(dataset, own, data::measure(dataset, own, *alone), batch_size, config.run.seed, 0, 1);
    TrialRows rows;
    rows.n = dataset.n;
    double start = 0;
    for (int i = 0; i <= trial_batches; ++i) {
        const data::Batch batch = stream.next();
        if (i == 0) {  // the first waits for the files to be opened and the buffer to be filled
            start = seconds_now();
            continue;
        }
        std::ranges::copy(batch.x, rows.x.emplace_back(batch.x.size()).begin());
        if (!batch.target.empty())
            std::ranges::copy(batch.target, rows.targets.emplace_back(batch.target.size()).begin());
    }
    rows.read_seconds = (seconds_now() - start) / trial_batches;
    return rows;
}

TrialBatches::TrialBatches(device::Device& device, std::vector<data::Batch> batches)
    : batches_(std::move(batches)) {
    if (batches_.size() == 1) batches_.push_back(batches_.front());  // one is used while another is sent
    for (data::Batch& batch : batches_) {
        const std::int64_t rows = std::max<std::int64_t>(1, batch.rows);
        const std::optional<Element> target =
            batch.target.empty() ? std::nullopt : std::optional(Element::float32);
        auto parcel = device.make_parcel({rows, std::ssize(batch.x) / rows, Element::float32, target});
        if (!parcel) return;
        std::ranges::copy(std::as_bytes(batch.x), parcel->x().begin());
        std::ranges::copy(std::as_bytes(batch.target), parcel->target().begin());
        batch.parcel = parcel.get();
        parcels_.push_back(std::move(parcel));
    }
    send(0);
}

data::Batch TrialBatches::next() {
    const std::size_t now = at_;
    at_ = (at_ + 1) % batches_.size();
    if (!parcels_.empty()) send(at_);
    return batches_[now];
}

double trial_step(const TrialRows& rows, const SaeConfig& sae, const Config& config, int threads,
                  double seconds) {
    const std::unique_ptr<Communicator> alone = make_self_communicator();
    const std::unique_ptr<device::Device> device = device::make_device(
        *alone, {config.run.device, threads, {config.run.encoder, config.run.screen_bound}});
    std::vector<data::Batch> all;
    for (std::size_t i = 0; i < rows.x.size(); ++i) all.push_back(rows.batch(i));
    TrialBatches batches(*device, all);
    const data::Batch& first = all.front();
    Trial trial(*device, *alone, sae, sae::shape_of(sae, rows.n, !first.target.empty()), first.rows, first, 1,
                config.parallel.micro_batch.value_or(0));
    trial.bench.steps = config.train.steps();
    start_average(trial.bench, trial.sae, config.optimizer);
    // As many pairs of an elementwise kind are to stay active.
    const double rate =
        trial.sae.kind->elementwise()
            ? 0
            : config.optimizer.lr.value_or(automatic_rate(sae, config.train.batch_size, config.train.tokens));
    std::vector<double> taken;
    const double begun = seconds_now();
    for (std::size_t step = 0; step < settling_steps + 3 || seconds_now() - begun < seconds; ++step) {
        const double start = seconds_now();
        train_step(trial.bench, trial.sae, config.optimizer, batches.next(), static_cast<std::int64_t>(step),
                   rate);
        if (step >= settling_steps) taken.push_back(seconds_now() - start);
    }
    std::ranges::nth_element(taken, taken.begin() + std::ssize(taken) / 2);
    return taken[taken.size() / 2];
}

void copy(const Array<float>& from, Array<float>& to, int threads) {
    constexpr std::int64_t parts = 64;
    const auto part = static_cast<std::int64_t>(from.size()) / parts;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t i = 0; i < parts; ++i) std::copy_n(from.data() + i * part, part, to.data() + i * part);
}

double copy_rate(int threads) {
    const Array<float> from(std::size_t{1} << 26);  // 256 MiB each, more than caches hold
    Array<float> to(from.size());
    double best = 1e30;
    for (int i = 0; i < 4; ++i) {
        const double start = seconds_now();
        copy(from, to, threads);
        best = std::min(best, seconds_now() - start);
    }
    return 8 * static_cast<double>(from.size()) / best;
}

}  // namespace strata::train
