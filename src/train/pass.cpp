#include "train/pass.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "comm/self.h"
#include "sae/sae.h"
#include "train/reduce.h"

namespace strata::train {
namespace {

using device::CodeSet;

float gradient_scale(const Workbench& bench) {
    return 2.0F / static_cast<float>(bench.batch_size);
}

// What each of the codes without masks does for the error.
void add_observed(Workbench& bench, const TrainedSae& sae, Pass& pass) {
    pass.left_out += bench.device.observe(sae.parameters);
    bench.device.latent_sums(CodeSet::observed, pass.observed, sae.parameters.width);
}

// AuxK (docs/methods.md): the dead latents' aux_k largest pre-activations of a row reconstruct what
// the SAE missed, e = y - x_hat taken as a constant, without the decoder bias:
//   loss = coefficient * E|x|^2 * sum_b |e_b - f_b W_dec|^2 / sum_b |e_b - mean e|^2
// E|x|^2 makes the weight independent of the input scale. Decodes the main codes of all rows, and returns
// what the sum of |e_b - f_b W_dec|^2 is multiplied by; 0 where there is nothing to explain.
double weigh_errors(Workbench& bench, const TrainedSae& sae, std::int64_t rows) {
    std::vector<double> sums(static_cast<std::size_t>(sae.parameters.n) + 1);
    const std::span columns = std::span(sums).first(sums.size() - 1);
    for_each_range(bench, rows, [&] {
        bench.device.decode(CodeSet::main, sae.parameters, gradient_scale(bench));
        bench.device.add_residual_columns(sae.parameters, columns);
    });
    sums.back() = bench.device.decode_sums(CodeSet::main).squared_error;
    bench.comm().sum(sums);
    double variance = sums.back();
    for (const double sum : columns) variance -= sum * sum / static_cast<double>(bench.batch_size);
    // Equal errors leave nothing to explain but their rounding, by which nothing should be divided.
    if (!(variance > 1e-5 * sums.back())) return 0;
    return sae.config.aux_coefficient * bench.mean_square / variance;
}

void add_auxiliary(Workbench& bench, const TrainedSae& sae, std::span<const std::uint32_t> dead,
                   std::int64_t aux_k, double scale) {
    bench.device.screen_row_top(sae.parameters, std::min(aux_k, std::ssize(dead)), dead);
    bench.device.keep(CodeSet::auxiliary, 0, 0, false);
    bench.device.decode(CodeSet::auxiliary, sae.parameters, static_cast<float>(2 * scale));
}

void select_pairs(Workbench& bench, TrainedSae& sae, const data::Batch& batch, bool masked,
                  std::span<const std::uint32_t> dead, Pass& pass) {
    static const std::unique_ptr<Communicator> alone = make_self_communicator();
    const bool local = sae.config.threshold_scope == "local";
    pass.threshold = sae.kind->select(
        {bench.device, local ? *alone : bench.comm(), local ? nullptr : bench.sums, sae.parameters,
         sae.config, local ? batch.rows : bench.batch_size, batch.rows, sae.guess, sae.margin, masked,
         !sae.config.atm || sae.config.atm->place == "before"});
    if (sae.config.atm && !masked)
        bench.device.keep_unmasked(CodeSet::main, CodeSet::observed);  // all of them

    std::vector<device::SetUse> uses = {{.set = CodeSet::main}};
    const std::int64_t aux_k = sae::auxiliary_codes(sae.config, sae.parameters.n);
    const bool weighed = aux_k > 0 && sae.config.aux_coefficient != 0 && !dead.empty();
    if (weighed) pass.missed_scale = weigh_errors(bench, sae, batch.rows);
    if (pass.missed_scale > 0) uses.push_back({.set = CodeSet::auxiliary});
    const bool decoded = weighed && batch.rows <= bench.rows_at_once;  // and still there
    for_each_range(bench, batch.rows, [&] {
        if (!decoded) bench.device.decode(CodeSet::main, sae.parameters, gradient_scale(bench));
        if (sae.config.atm) add_observed(bench, sae, pass);
        if (pass.missed_scale > 0) add_auxiliary(bench, sae, dead, aux_k, pass.missed_scale);
        bench.device.accumulate(uses, {}, sae.parameters, bench.gradient, {},
                                [&](std::int64_t begin, std::int64_t end) { hand_on(bench, begin, end); });
    });
}

// Rows of a range, if lists are as long as in the step before: those of all sets are to take three quarters
// of the room; as many as the device holds. Of ranks that share memory the one with the most rows decides.
// Collective over these.
std::int64_t rows_of_range(const Workbench& bench, const TrainedSae& sae, std::int64_t own_rows) {
    auto most = static_cast<double>(own_rows);
    if (bench.replicas.share_memory()) bench.replicas.group->max(std::span(&most, 1));
    const auto rows = static_cast<std::int64_t>(most);
    const double pairs = sae.density * static_cast<double>(sae.parameters.width * rows);
    const auto ranges = static_cast<std::int64_t>(pairs / (0.75 * static_cast<double>(bench.list_pairs))) + 1;
    return std::min(bench.rows_at_once, device::up_to_range((rows + ranges - 1) / ranges));
}

// By lists of pairs, of one range of rows after another; where one has more pairs than there is room for, the
// ranges are halved. Ranks that share memory go through as many ranges together, the last of which may be
// empty.
void gate_lists(Workbench& bench, TrainedSae& sae, const data::Batch& batch, bool masked, Pass& pass) {
    device::Device& device = bench.device;
    const device::Tensors& parameters = sae.parameters;
    const device::Gate gate = pass.rule.gate();
    const float scale = gradient_scale(bench);
    std::vector<float> at_least = pass.rule.threshold;
    for (float& limit : at_least) limit = std::max(0.0F, limit - gate.window / 2);
    std::vector<device::SetUse> uses = {{.set = CodeSet::main, .gain = gate.gain}};
    if (gate.frozen)
        uses.push_back({.set = CodeSet::gate, .shift = gate.penalty, .decoder = false});
    else
        uses.front().shift = gate.penalty;
    std::array<device::LatentSums, 2> sums;

    std::int64_t rows = rows_of_range(bench, sae, batch.rows);
    std::int64_t first = 0;
    for (bool more = true; more;) {
        const std::int64_t last = std::min(first + rows, batch.rows);
        device.take_rows(first, last);
        const bool listed =
            device.screen_above(parameters, at_least, rows > device::range_rows ? bench.list_pairs : 0);
        std::array<std::uint32_t, 1> any = {(listed ? 0U : 1U) | (last < batch.rows ? 2U : 0U)};
        if (bench.replicas.share_memory()) bench.replicas.group->any(any);
        if ((any[0] & 1U) != 0) {
            rows = (rows / device::range_rows + 1) / 2 * device::range_rows;
            continue;
        }
        more = (any[0] & 2U) != 0;
        device.keep_gate(gate, parameters, masked);
        if (gate.frozen) device.decode(CodeSet::gate, parameters, scale);
        device.decode(CodeSet::main, parameters, scale);
        if (gate.window > 0) {
            device.backprop(CodeSet::window, parameters);
            device.latent_sums(CodeSet::window, pass.window, parameters.width);
        }
        if (sae.config.atm) {
            if (!masked) device.keep_unmasked(CodeSet::main, CodeSet::observed);  // all of them
            add_observed(bench, sae, pass);
        }
        device.accumulate(uses, pass.rule.shrink, parameters, bench.gradient,
                          std::span(sums).first(uses.size()),
                          [&](std::int64_t begin, std::int64_t end) { hand_on(bench, begin, end); });
        first = last;
    }
    pass.sums = device.decode_sums(CodeSet::main);
    pass.main = std::move(sums[0]);
    if (!gate.frozen) return;
    const device::DecodeSums frozen = device.decode_sums(CodeSet::gate);
    pass.frozen_error = frozen.squared_error;
    pass.gate_sum = frozen.l1;
    pass.gate = std::move(sums[1]);
    // Device::accumulate() sums dL/df of the gate's codes; what is wanted is dL/dz, with the penalty.
    for (std::size_t j = 0; j < pass.gate.count.size(); ++j)
        pass.gate.gradient[j] += gate.penalty[j] * pass.gate.count[j];
}

double sum_of(const std::vector<double>& values) {
    double sum = 0;
    for (const double v : values) sum += v;
    return sum;
}

void gate_dense(Workbench& bench, TrainedSae& sae, Pass& pass) {
    device::Gate gate = pass.rule.gate();
    gate.observe = sae.config.atm.has_value();
    device::DenseReport report =
        bench.device.dense(gate, sae.parameters, gradient_scale(bench), pass.rule.shrink, bench.gradient);
    pass.dense = true;
    pass.sums = report.sums;
    pass.frozen_error = report.frozen_error;
    pass.gate_sum = sum_of(report.gate.value);
    pass.main = std::move(report.main);
    pass.window = std::move(report.window);
    pass.gate = std::move(report.gate);
    pass.observed = std::move(report.observed);
    if (gate.observe)
        pass.left_out = static_cast<std::uint64_t>(sum_of(pass.observed.count)) - pass.sums.active;
    if (!bench.replicas.share_memory()) hand_on(bench, 0, sae.parameters.width);
}

}  // namespace

void run_pass(Workbench& bench, TrainedSae& sae, const data::Batch& batch, const sae::Moment& moment,
              bool masked, std::span<const std::uint32_t> dead, Pass& pass) {
    if (!sae.kind->elementwise()) {
        select_pairs(bench, sae, batch, masked, dead, pass);
        return;
    }
    pass.rule = sae.kind->rule(moment);
    if (sae.density > sae::dense_share(sae.parameters, pass.rule.frozen))
        gate_dense(bench, sae, pass);
    else
        gate_lists(bench, sae, batch, masked, pass);
    double listed = sum_of(pass.main.count);
    for (const device::LatentSums* sums : {&pass.gate, &pass.window, &pass.observed})
        listed += sum_of(sums->count) / 2;
    bench.comm().sum(std::span(&listed, 1));
    sae.density =
        listed / (static_cast<double>(bench.batch_size) * static_cast<double>(sae.parameters.width));
}

}  // namespace strata::train
