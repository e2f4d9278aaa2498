#include "train/step.h"

#include <algorithm>
#include <cmath>

#include "sae/sae.h"
#include "train/finite.h"
#include "train/pass.h"
#include "train/reduce.h"
#include "train/resample.h"

namespace strata::train {
namespace {

using device::CodeSet;

void report_auxiliary(Workbench& bench, const Pass& pass, StepReport& report) {
    if (pass.missed_scale == 0) return;
    const device::DecodeSums missed = bench.device.decode_sums(CodeSet::auxiliary);
    double error = missed.squared_error;
    bench.comm().sum(std::span(&error, 1));
    report.auxiliary_loss = pass.missed_scale * error;
    report.auxiliary_codes = missed.active;
}

// Counts, over all ranks and in rows, for how long each latent has been silent, masks left aside. Returns
// those that had been dead and fire again.
std::vector<std::uint32_t> count_silence(Workbench& bench, TrainedSae& sae, const Pass& pass, bool masked) {
    std::vector<std::uint32_t> bits((sae.silent.size() + 31) / 32);
    if (!sae.kind->elementwise()) {
        bench.device.fired(masked ? CodeSet::observed : CodeSet::main, bits);
    } else {
        const std::vector<double>& count = (masked ? pass.observed : pass.main).count;
        for (std::size_t j = 0; j < count.size(); ++j)
            if (count[j] > 0) bits[j / 32] |= 1U << (j % 32);
    }
    bench.comm().any(bits);
    const std::uint64_t dead_after = sae::dead_after(sae.config, bench.tokens());
    std::vector<std::uint32_t> revived;
    for (std::size_t j = 0; j < sae.silent.size(); ++j) {
        const bool fired = ((bits[j / 32] >> (j % 32)) & 1U) != 0;
        if (fired && sae.silent[j] >= dead_after) revived.push_back(static_cast<std::uint32_t>(j));
        sae.silent[j] = fired ? 0 : sae.silent[j] + static_cast<std::uint64_t>(bench.batch_size);
    }
    return revived;
}

// The averages learn from this step's codes without masks.
void learn_importance(Workbench& bench, TrainedSae& sae, const Pass& pass,
                      const std::vector<std::uint32_t>& revived, AtmReport& report) {
    const std::size_t width = sae.silent.size();
    std::vector<double> sums;
    for (const auto* part : {&pass.observed.value, &pass.observed.count, &pass.observed.gradient})
        sums.insert(sums.end(), part->begin(), part->end());
    sums.push_back(static_cast<double>(pass.left_out));
    bench.comm().sum(sums);
    const std::span<const double> all = sums;
    double active = 0;
    for (const double count : all.subspan(width, width)) active += count;
    report.masked_share = active > 0 ? sums.back() / active : 0;
    update_atm(sae.atm, *sae.config.atm, all.first(width), all.subspan(width, width),
               all.subspan(2 * width, width), bench.batch_size, revived);
}

// What penalties depend on, over all ranks.
sae::BatchSums batch_sums(Workbench& bench, const TrainedSae& sae, const Pass& pass) {
    sae::BatchSums batch;
    std::vector<std::uint64_t> counts;
    if (sae.kind->counts_latents != nullptr && sae.kind->counts_latents(sae.config))
        counts.assign(pass.main.count.begin(), pass.main.count.end());
    counts.push_back(pass.sums.active);
    bench.comm().sum(counts);
    batch.active = static_cast<double>(counts.back());
    batch.count.assign(counts.begin(), counts.end() - 1);
    return batch;
}

// The penalty's part of the loss, all ranks.
double penalty_of(Workbench& bench, const TrainedSae& sae, const Pass& pass, const sae::Moment& moment,
                  const sae::BatchSums& batch) {
    if (sae.kind->penalty == nullptr) return 0;
    double l1 = pass.rule.frozen ? pass.gate_sum : pass.sums.l1;
    if (!moment.decoder_norms.empty()) {
        l1 = 0;
        for (std::size_t j = 0; j < pass.main.value.size(); ++j)
            l1 += moment.decoder_norms[j] * pass.main.value[j];
    }
    std::array<double, 2> sums = {l1, pass.frozen_error};
    bench.comm().sum(sums);
    return sae.kind->penalty(moment, batch, sums[0], sums[1]);
}

void fill_own_gradient(Workbench& bench, const TrainedSae& sae, const Pass& pass, const sae::Moment& moment,
                       const sae::BatchSums& batch) {
    if (sae.kind->own_gradient == nullptr) return;
    device::Device& device = bench.device;
    const auto width = static_cast<std::size_t>(sae.parameters.width);
    std::vector<float> own(static_cast<std::size_t>(sae.parameters.per_latent) * width), b_enc(width);
    device.download(bench.gradient.b_enc.data(), std::as_writable_bytes(std::span(b_enc)));
    sae.kind->own_gradient(moment, batch, {pass.main, pass.window, pass.gate}, own, b_enc);
    device.upload(std::as_bytes(std::span(own)), bench.gradient.latent.data());
    device.upload(std::as_bytes(std::span(b_enc)), bench.gradient.b_enc.data());
}

// After the optimiser: thresholds of the latents that were dead before this step halve `threshold_fall` times
// in dead_after rows, and the kind's own parameters stay where it allows. `averaging`: of z too.
void constrain(Workbench& bench, TrainedSae& sae, const sae::Moment& moment,
               std::span<const std::uint32_t> dead, bool averaging) {
    const sae::Kind& kind = *sae.kind;
    const bool lower = kind.lower != nullptr && !dead.empty();
    if (!lower && kind.constrain == nullptr) return;
    const double factor = std::exp2(-sae.config.threshold_fall * static_cast<double>(bench.batch_size) /
                                    static_cast<double>(sae::dead_after(sae.config, bench.tokens())));
    for (device::Tensors* t : {&sae.parameters, &sae.first}) {
        if (t == &sae.first && !averaging) continue;
        std::vector<float> own = sae::host_copy(bench.device, t->latent);
        if (lower) {
            std::vector<float> b_enc = sae::host_copy(bench.device, t->b_enc);
            kind.lower(moment, dead, factor, own, b_enc);
            bench.device.upload(std::as_bytes(std::span(b_enc)), t->b_enc.data());
        }
        if (kind.constrain != nullptr) kind.constrain(moment, own);
        bench.device.upload(std::as_bytes(std::span(own)), t->latent.data());
    }
}

// The optimiser's step on a gradient of this norm. Averages weigh steps by the square of the largest rate so
// far.
device::OptimizerStep optimizer_step(TrainedSae& sae, const OptimizerConfig& optimizer, std::int64_t step,
                                     double lr, double gradient_norm) {
    using Kind = device::OptimizerStep::Kind;
    device::OptimizerStep next;
    next.kind = optimizer.kind == "adam"     ? Kind::adam
                : optimizer.kind == "signum" ? Kind::signum
                                             : Kind::adam_schedule_free;
    next.lr = static_cast<float>(lr * rate_after_resampling(sae, step));
    next.beta1 = static_cast<float>(optimizer.beta1);
    next.beta2 = static_cast<float>(optimizer.beta2);
    next.epsilon = static_cast<float>(optimizer.epsilon);
    next.correction1 = static_cast<float>(1 - std::pow(optimizer.beta1, static_cast<double>(step + 1)));
    next.correction2 = static_cast<float>(1 - std::pow(optimizer.beta2, static_cast<double>(step + 1)));
    if (optimizer.clip_norm > 0 && gradient_norm > optimizer.clip_norm)
        next.gradient_scale = static_cast<float>(optimizer.clip_norm / gradient_norm);
    sae.largest_rate = std::max(sae.largest_rate, static_cast<double>(next.lr));
    sae.weight_sum += sae.largest_rate * sae.largest_rate;
    if (sae.weight_sum > 0)
        next.average = static_cast<float>(sae.largest_rate * sae.largest_rate / sae.weight_sum);
    return next;
}

}  // namespace

sae::Moment moment_of(const Workbench& bench, const TrainedSae& sae, std::int64_t step,
                      std::vector<float>& own, std::vector<float>& norms) {
    own = sae::host_copy(bench.device, sae.parameters.latent);
    if (sae.kind->elementwise() && !sae.parameters.unit_rows) {
        norms.resize(static_cast<std::size_t>(sae.parameters.width));
        bench.device.row_norms(sae.parameters.w_dec.span(), norms);
    }
    const std::int64_t warmup = std::min(sae.config.penalty_warmup_steps, bench.steps / 4);
    const double ramp =
        warmup == 0 ? 1 : std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(warmup));
    return {sae.config, sae.parameters, own, norms, std::sqrt(bench.mean_square), ramp, bench.batch_size};
}

StepReport train_step(Workbench& bench, TrainedSae& sae, const OptimizerConfig& optimizer,
                      const data::Batch& batch, std::int64_t step, double lr) {
    device::Device& device = bench.device;
    static_cast<device::Shape&>(bench.gradient) = sae.parameters;
    const std::uint64_t dead_after = sae::dead_after(sae.config, bench.tokens());
    std::vector<std::uint32_t> dead;
    for (std::size_t j = 0; j < sae.silent.size(); ++j)
        if (sae.silent[j] >= dead_after) dead.push_back(static_cast<std::uint32_t>(j));

    StepReport report;
    report.dead = std::ssize(dead);
    device.center(data::rows_of(batch), sae.parameters);
    AtmDraw draw;
    if (sae.config.atm) {
        const AtmPlan plan = plan_masks(sae.atm, *sae.config.atm, step);
        draw = draw_masks(plan, *sae.config.atm, bench.seed, step, batch.first, batch.rows);
        report.atm = {plan.threshold, plan.mean_probability, plan.above_share, 0};
    }
    const bool masked = !draw.probability.empty();
    if (masked) device.mask(draw.mask());

    std::vector<float> own, norms;
    const sae::Moment moment = moment_of(bench, sae, step, own, norms);
    Pass pass;
    run_pass(bench, sae, batch, moment, masked, dead, pass);
    // Only now, since it is waited for: the device has everything to do that this step asks of it.
    const std::vector<std::uint32_t> revived = count_silence(bench, sae, pass, masked);
    if (!sae.kind->elementwise()) pass.sums = device.decode_sums(CodeSet::main);
    report_auxiliary(bench, pass, report);
    report.sums = pass.sums;
    report.threshold = pass.threshold;
    report.dense = pass.dense;
    if (sae.config.atm) learn_importance(bench, sae, pass, revived, report.atm);
    const sae::BatchSums sums = batch_sums(bench, sae, pass);

    report.penalty = penalty_of(bench, sae, pass, moment, sums);
    fill_own_gradient(bench, sae, pass, moment, sums);
    report.gradient_norm = std::sqrt(reduce_gradients(bench, pass.dense));
    if (!std::isfinite(report.gradient_norm)) fail_not_finite(bench, sae, report, step, lr);

    const device::OptimizerStep next = optimizer_step(sae, optimizer, step, lr, report.gradient_norm);
    const Slice slice = bench.replicas.updated(sae.parameters.width);
    device.update(sae.parameters, bench.gradient, sae.first, sae.second, next, slice.first, slice.last);
    constrain(bench, sae, moment, dead, next.kind != device::OptimizerStep::Kind::adam);
    spread_weights(bench, sae.parameters);
    report.resampled = std::ssize(resample(bench, sae, optimizer, step));
    report.codes = std::move(pass.main);
    return report;
}

}  // namespace strata::train
