#include "train/finish.h"

#include "eval/evaluate.h"
#include "sae/sae.h"
#include "train/output.h"
#include "train/pass.h"

namespace strata::train {
namespace {

// Leaves the main codes of the present batch by the rule that the SAE will be used with. `masked`: without
// the latents that the device's mask leaves out.
void infer(device::Device& device, const TrainedSae& sae, const sae::Rule& rule, bool masked) {
    device::Gate gate = rule.gate();
    gate.window = 0;
    gate.frozen = false;
    if (sae.kind->inference == sae::Inference::row_top) {
        const auto k = static_cast<std::int64_t>(sae.config.k);
        device.screen_row_top(sae.parameters, k, {});
        device.keep_row_top(device::CodeSet::main, k, masked);
        return;
    }
    device.screen_above(sae.parameters, gate.threshold, 0);
    device.keep_gate(gate, sae.parameters, masked);
}

struct HeldOut {
    eval::Measures measures;
    double active_in_training = 0;  // codes of a row by the rule of training
};

// `above`: the latents that alone are used; empty: all.
HeldOut measure_held_out(Workbench& bench, TrainedSae& sae, const Config& config,
                         const data::Dataset& dataset, const data::InputStatistics& statistics,
                         const sae::Rule& rule, const std::vector<char>& above) {
    device::Device& device = bench.device;
    Communicator& comm = bench.comm();
    const bool elementwise = sae.kind->elementwise();
    const std::int64_t batch_rows = elementwise
                                        ? eval::inference_rows(config.train.batch_size, sae.config.width)
                                        : config.train.batch_size;
    const std::vector<float> draw(static_cast<std::size_t>(batch_rows), 0.5F);
    std::vector<float> left_out;
    for (const char a : above) left_out.push_back(a != 0 ? 0.0F : 1.0F);
    eval::Sums sums(sae.parameters.n, sae.parameters.width);
    double active = 0;
    eval::for_each_batch(
        device, dataset, dataset.rows - config.data.eval_rows, dataset.rows, batch_rows,
        statistics.norm_limit, statistics.scale, comm, [&](const data::Batch& batch, std::int64_t rows) {
            const auto decode_all = [&] {
                for_each_range(bench, batch.rows,
                               [&] { device.decode(device::CodeSet::main, sae.parameters, 0); });
            };
            device.center(data::rows_of(batch), sae.parameters);
            if (!elementwise && above.empty()) {
                sae.kind->select({device, comm, bench.sums, sae.parameters, sae.config, rows, batch.rows,
                                  sae.guess, sae.margin});
                decode_all();
                active += static_cast<double>(device.decode_sums(device::CodeSet::main).active);
                device.center(data::rows_of(batch), sae.parameters);  // all rows again
            }
            if (!above.empty()) device.mask({draw, left_out});
            infer(device, sae, rule, !above.empty());
            decode_all();
            eval::add_batch(device, sae.parameters, batch.rows, device.decode_sums(device::CodeSet::main),
                            sums);
        });
    eval::reduce(comm, sums);
    comm.sum(std::span(&active, 1));
    if (elementwise) active = static_cast<double>(sums.decoded.active);
    return {eval::measures(sums), sums.rows > 0 ? active / sums.rows : 0};
}

}  // namespace

nlohmann::json finish_sae(Workbench& bench, TrainedSae& sae, const Config& config,
                          const data::Dataset& dataset, const data::InputStatistics& statistics,
                          const eval::EachBatch& following, const data::LeftOut& left_out) {
    take_average(bench, sae, config.optimizer);
    std::vector<float> own, norms;
    sae::Rule rule;
    if (sae.kind->elementwise()) {
        rule = sae.kind->rule(moment_of(bench, sae, bench.steps, own, norms));
    } else if (sae.kind->inference == sae::Inference::threshold) {
        const float threshold = eval::calibrate_threshold(bench.device, bench.comm(), sae.parameters,
                                                          sae.config.k, 0.8F * sae.guess, following);
        sae.thresholds.assign(static_cast<std::size_t>(sae.config.width), threshold);
        rule.threshold = sae.thresholds;
    }
    const HeldOut found = measure_held_out(bench, sae, config, dataset, statistics, rule, {});
    std::int64_t dead = 0;
    const std::uint64_t dead_after = sae::dead_after(sae.config, bench.tokens());
    for (const std::uint64_t silent : sae.silent) dead += silent >= dead_after;
    nlohmann::json entry = summary_entry(sae, dataset, found.measures, found.active_in_training, statistics,
                                         bench.steps, bench.tokens(), left_out, dead);
    if (sae.config.atm) {
        const AtmPlan plan = plan_masks(sae.atm, *sae.config.atm, bench.steps);
        const HeldOut masked = measure_held_out(bench, sae, config, dataset, statistics, rule, plan.above);
        entry["fvu_hard_mask"] = masked.measures.fvu;
        entry["l0_hard_mask"] = masked.measures.l0;
        entry["atm_above"] = plan.above_share;
    }
    return entry;
}

}  // namespace strata::train
