#include "train/step.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace strata::train {
namespace {

using device::CodeSet;

// AuxK (methods: docs/methods.md): the dead latents' aux_k largest pre-activations of a row reconstruct what
// the SAE missed, e = x - x_hat taken as a constant, without the decoder bias:
//   loss = coefficient * E|x|^2 * sum_b |e_b - f_b W_dec|^2 / sum_b |e_b - mean e|^2
// E|x|^2 makes the weight independent of the input scale. Returns false if there is nothing to do.
bool add_auxiliary(Workbench& bench, const TrainedSae& sae, const std::vector<std::uint32_t>& dead,
                   double& loss) {
    device::Device& device = bench.device;
    const SaeConfig& config = sae.config;
    if (config.aux_k == 0 || config.aux_coefficient == 0 || dead.empty()) return false;

    std::vector<double> sums(static_cast<std::size_t>(sae.parameters.n) + 1);
    const std::span columns = std::span(sums).first(sums.size() - 1);
    sums.back() = device.column_sums(sae.parameters, columns, {}).residual_square;
    bench.comm.sum(sums);
    double variance = sums.back();
    for (const double sum : columns) variance -= sum * sum / static_cast<double>(bench.batch_size);
    // Equal errors leave nothing to explain but their rounding, by which nothing should be divided.
    if (!(variance > 1e-5 * sums.back())) return false;

    const double scale = config.aux_coefficient * bench.mean_square / variance;
    device.screen_row_top(sae.parameters, std::min(config.aux_k, std::ssize(dead)), dead);
    device.keep(CodeSet::auxiliary, 0, 0);
    const device::DecodeSums missed =
        device.decode(CodeSet::auxiliary, sae.parameters, static_cast<float>(2 * scale));
    double error = missed.squared_error;
    bench.comm.sum(std::span(&error, 1));
    loss = scale * error;
    return true;
}

// Sums the gradients over ranks, bucket by bucket while they are being made; returns the squared norm of the
// result.
double accumulate_and_reduce(Workbench& bench, const TrainedSae& sae, std::span<const CodeSet> sets) {
    device::Tensors& gradient = bench.gradient;
    gradient.width = sae.parameters.width;
    const auto n = static_cast<std::size_t>(gradient.n);
    const auto ready = [&](std::int64_t first, std::int64_t last) {
        const std::size_t at = static_cast<std::size_t>(first) * n;
        const std::size_t count = static_cast<std::size_t>(last - first) * n;
        bench.reducer.submit({gradient.w_enc.data() + at, count});
        bench.reducer.submit({gradient.w_dec.data() + at, count});
    };
    const double own = bench.device.accumulate(sets, sae.parameters, gradient, ready);
    if (bench.comm.size() == 1) return own;
    bench.reducer.submit({gradient.b_enc.data(), static_cast<std::size_t>(gradient.width)});
    bench.reducer.submit({gradient.b_dec.data(), n});
    bench.reducer.wait();
    return bench.device.square_norm(gradient);
}

// Counts, over all ranks and in rows, for how long each latent has been silent.
void count_silence(Workbench& bench, TrainedSae& sae) {
    std::vector<std::uint32_t> bits((sae.silent.size() + 31) / 32);
    bench.device.fired(bits);
    bench.comm.any(bits);
    for (std::size_t j = 0; j < sae.silent.size(); ++j) {
        const bool fired = ((bits[j / 32] >> (j % 32)) & 1U) != 0;
        sae.silent[j] = fired ? 0 : sae.silent[j] + static_cast<std::uint64_t>(bench.batch_size);
    }
}

}  // namespace

TrainedSae make_sae(device::Device& device, const SaeConfig& config, std::string name, std::int64_t n) {
    TrainedSae sae;
    sae.name = std::move(name);
    sae.config = config;
    sae.kind = &sae::kind_of(config.kind);
    sae.parameters = device::make_tensors(device, n, config.width);
    sae.first = device::make_tensors(device, n, config.width);
    sae.second = device::make_tensors(device, n, config.width);
    sae.silent.assign(static_cast<std::size_t>(config.width), 0);
    return sae;
}

StepReport train_step(Workbench& bench, TrainedSae& sae, const OptimizerConfig& optimizer,
                      const data::Batch& batch, std::int64_t step, double lr) {
    device::Device& device = bench.device;
    const float row_scale = 2.0F / static_cast<float>(bench.batch_size);
    std::vector<std::uint32_t> dead;
    for (std::size_t j = 0; j < sae.silent.size(); ++j)
        if (sae.silent[j] >= static_cast<std::uint64_t>(sae.config.dead_after_tokens))
            dead.push_back(static_cast<std::uint32_t>(j));

    StepReport report;
    report.dead = std::ssize(dead);
    device.center(batch.x, batch.rows, sae.parameters);
    report.threshold = sae.kind->select({device, bench.comm, sae.parameters, sae.config, bench.batch_size,
                                         batch.rows, sae.guess, sae.margin});
    report.sums = device.decode(CodeSet::main, sae.parameters, row_scale);
    count_silence(bench, sae);

    std::vector<CodeSet> sets = {CodeSet::main};
    if (add_auxiliary(bench, sae, dead, report.auxiliary_loss)) sets.push_back(CodeSet::auxiliary);

    report.gradient_norm = std::sqrt(accumulate_and_reduce(bench, sae, sets));
    if (!std::isfinite(report.gradient_norm))
        fail(
            "{}: the gradient of step {} is not finite (norm {}); lower optimizer.lr (now {:.3g}), or look "
            "for extreme "
            "rows with `strata data check`",
            sae.name, step + 1, report.gradient_norm, lr);

    device::AdamStep adam;
    adam.lr = static_cast<float>(lr);
    adam.beta1 = static_cast<float>(optimizer.beta1);
    adam.beta2 = static_cast<float>(optimizer.beta2);
    adam.epsilon = static_cast<float>(optimizer.epsilon);
    adam.correction1 = static_cast<float>(1 - std::pow(optimizer.beta1, static_cast<double>(step + 1)));
    adam.correction2 = static_cast<float>(1 - std::pow(optimizer.beta2, static_cast<double>(step + 1)));
    if (optimizer.clip_norm > 0 && report.gradient_norm > optimizer.clip_norm)
        adam.gradient_scale = static_cast<float>(optimizer.clip_norm / report.gradient_norm);
    device.update(sae.parameters, bench.gradient, sae.first, sae.second, adam);
    return report;
}

}  // namespace strata::train
