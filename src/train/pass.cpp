#include "train/pass.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "comm/self.h"

namespace strata::train {
namespace {

using device::CodeSet;

float gradient_scale(const Workbench& bench) {
    return 2.0F / static_cast<float>(bench.batch_size);
}

void select_pairs(Workbench& bench, TrainedSae& sae, const data::Batch& batch, bool masked, Pass& pass) {
    static const std::unique_ptr<Communicator> alone = make_self_communicator();
    const bool local = sae.config.threshold_scope == "local";
    pass.threshold =
        sae.kind->select({bench.device, local ? *alone : bench.comm(), sae.parameters, sae.config,
                          local ? batch.rows : bench.batch_size, batch.rows, sae.guess, sae.margin, masked,
                          !sae.config.atm || sae.config.atm->place == "before"});
    pass.sums = bench.device.decode(CodeSet::main, sae.parameters, gradient_scale(bench));
    pass.uses = {{.set = CodeSet::main}};
}

// By lists of pairs; false, on all ranks, if there are too many of them.
bool gate_pairs(Workbench& bench, TrainedSae& sae, const data::Batch& batch, bool masked, Pass& pass) {
    device::Device& device = bench.device;
    const device::Gate gate = pass.rule.gate();
    std::vector<float> at_least = pass.rule.threshold;
    for (float& limit : at_least) limit = std::max(0.0F, limit - gate.window / 2);
    const double pairs = static_cast<double>(batch.rows) * static_cast<double>(sae.parameters.width);
    std::array<std::uint32_t, 1> too_many = {
        device.screen_above(sae.parameters, at_least,
                            static_cast<std::int64_t>(2 * sae::dense_share * pairs) + 65536)
            ? 0U
            : 1U};
    bench.comm().any(too_many);
    if (too_many[0] != 0) return false;

    device.keep_gate(gate, sae.parameters, masked);
    if (gate.frozen) {
        const device::DecodeSums frozen = device.decode(CodeSet::gate, sae.parameters, gradient_scale(bench));
        pass.frozen_error = frozen.squared_error;
        pass.gate_sum = frozen.l1;
    }
    pass.sums = device.decode(CodeSet::main, sae.parameters, gradient_scale(bench));
    if (gate.window > 0) {
        device.backprop(CodeSet::window, sae.parameters);
        device.latent_sums(CodeSet::window, pass.window, sae.parameters.width);
    }
    pass.uses = {{.set = CodeSet::main, .gain = gate.gain}};
    if (gate.frozen)
        pass.uses.push_back({.set = CodeSet::gate, .shift = gate.penalty, .decoder = false});
    else
        pass.uses.front().shift = gate.penalty;
    return true;
}

double sum_of(const std::vector<double>& values) {
    double sum = 0;
    for (const double v : values) sum += v;
    return sum;
}

void gate_rows(Workbench& bench, TrainedSae& sae, Pass& pass) {
    device::Gate gate = pass.rule.gate();
    gate.observe = sae.config.atm.has_value();
    device::DenseReport report =
        bench.device.dense(gate, sae.parameters, gradient_scale(bench), pass.rule.shrink, bench.gradient);
    pass.dense = true;
    pass.sums = report.sums;
    pass.square_norm = report.square_norm;
    pass.frozen_error = report.frozen_error;
    pass.gate_sum = sum_of(report.gate.value);
    pass.main = std::move(report.main);
    pass.window = std::move(report.window);
    pass.gate = std::move(report.gate);
    pass.observed = std::move(report.observed);
    if (gate.observe)
        pass.left_out = static_cast<std::uint64_t>(sum_of(pass.observed.count)) - pass.sums.active;
}

}  // namespace

void run_pass(Workbench& bench, TrainedSae& sae, const data::Batch& batch, const sae::Moment& moment,
              bool masked, Pass& pass) {
    if (!sae.kind->elementwise()) {
        select_pairs(bench, sae, batch, masked, pass);
    } else {
        pass.rule = sae.kind->rule(moment);
        if (sae.density > sae::dense_share || !gate_pairs(bench, sae, batch, masked, pass))
            gate_rows(bench, sae, pass);
    }
    if (!sae.kind->elementwise()) return;
    double active = static_cast<double>(pass.sums.active);
    bench.comm().sum(std::span(&active, 1));
    sae.density =
        active / (static_cast<double>(bench.batch_size) * static_cast<double>(sae.parameters.width));
}

}  // namespace strata::train
