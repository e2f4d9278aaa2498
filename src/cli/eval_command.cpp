#include <omp.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "cli/command.h"
#include "comm/agree.h"
#include "comm/ranks.h"
#include "data/dataset.h"
#include "data/synth.h"
#include "device/gpu.h"
#include "eval/evaluate.h"
#include "eval/saved.h"
#include "formats/saelens.h"
#include "sae/sae.h"

namespace strata::cli {
namespace {

constexpr std::int64_t most_batch_rows = 4096;

struct Arguments {
    std::string folder, dataset, target;
    std::vector<std::string> files;
    std::int64_t rows = 0;
    double norm_limit = -1;
    bool skip_corrupt = false, json = false;
    std::string device = "auto";
};

int evaluate(const Arguments& arguments, Communicator& comm) {
    saelens::SavedSae saved;
    data::Dataset dataset;
    nlohmann::ordered_json ours;  // what training left in cfg.json
    together(comm, [&] {
        saved = named_by_user([&] { return saelens::read(arguments.folder); });
        ours = saved.metadata.value("strata", nlohmann::ordered_json::object());
        if (!ours.is_object()) refuse("{}/cfg.json: metadata.strata: expected a map", arguments.folder);
        const std::string name = arguments.dataset.empty() ? ours.value("dataset", "") : arguments.dataset;
        if (name.empty()) refuse("{}: does not say what it was trained on; give --dataset", arguments.folder);
        const std::string target = !arguments.target.empty() ? arguments.target
                                   : saved.transcoder        ? ours.value("target", "")
                                                             : "";
        if (saved.transcoder && target.empty())
            refuse("{}: is a transcoder and does not say what it reconstructs; give --target",
                   arguments.folder);
        const std::vector<data::Dataset> found =
            data::find_datasets(arguments.files, {name}, target, arguments.skip_corrupt);
        if (found.size() != 1) refuse("--dataset {}: matches {} datasets, one is needed", name, found.size());
        dataset = found.front();
        if (dataset.n != saved.n)
            refuse("{}: the SAE reads rows of {}, dataset '{}' has rows of {}", arguments.folder, saved.n,
                   dataset.name, dataset.n);
    });
    const double limit = arguments.norm_limit >= 0 ? arguments.norm_limit : ours.value("norm_limit", 0.0);

    const int threads = std::max(1, omp_get_num_procs() / comm.ranks_on_node());
    const std::unique_ptr<device::Device> device = device::make_device(comm, {arguments.device, threads, {}});
    const std::int64_t batch_rows = eval::inference_rows(most_batch_rows, saved.width);
    device->prepare(batch_rows / comm.size() + 1, saved.n, saved.width, batch_rows * 64);
    const eval::UsableSae sae = eval::upload(*device, saved);
    eval::Sums sums(saved.n, saved.width);
    const std::int64_t first =
        arguments.rows > 0 ? std::max<std::int64_t>(0, dataset.rows - arguments.rows) : 0;
    const data::LeftOut left_out = eval::for_each_batch(
        *device, dataset, first, dataset.rows, batch_rows, limit, 1.0, comm,
        [&](const data::Batch& batch, std::int64_t) {
            device->center(data::rows_of(batch), sae.parameters);
            sae::apply_inference(*device, sae.parameters, sae.row_top, sae.k, sae.thresholds);
            device->decode(device::CodeSet::main, sae.parameters, 0);
            eval::add_batch(*device, sae.parameters, batch.rows, device->decode_sums(device::CodeSet::main),
                            sums);
        });
    eval::reduce(comm, sums);
    const eval::Measures m = eval::measures(sums);
    together(comm, [&] {
        if (m.rows == 0)
            fail(
                "{}: no row is left to evaluate: {} are over the norm limit of {}, {} corrupt; --norm-limit "
                "0 takes rows of any norm",
                dataset.name, left_out.skipped, limit, left_out.corrupt);
    });
    if (comm.rank() != 0) return exit_done;
    nlohmann::ordered_json result = {{"sae", arguments.folder},
                                     {"dataset", dataset.name},
                                     {"rows", static_cast<std::int64_t>(m.rows)},
                                     {"skipped_rows", left_out.skipped},
                                     {"corrupt_rows", left_out.corrupt},
                                     {"fvu", m.fvu},
                                     {"l0", m.l0},
                                     {"l1", m.l1},
                                     {"cosine", m.cosine},
                                     {"relative_bias", m.relative_bias},
                                     {"reconstruction", m.reconstruction},
                                     {"dead_fraction", m.dead_fraction},
                                     {"dense_fraction", m.dense_fraction}};
    if (const std::vector<float> truth = data::true_features_of(dataset); !truth.empty())
        result["recovered_features"] = data::recovered_share(truth, saved.w_dec, saved.n, 0.9);
    for (std::size_t i = 0; i < m.frequencies.size(); ++i) result["frequencies"].push_back(m.frequencies[i]);
    if (arguments.json) {
        fmt::print("{}\n", result.dump());
    } else {
        for (const auto& [key, value] : result.items())
            fmt::print("{:<18} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
    }
    return exit_done;
}

}  // namespace

void add_eval_command(CLI::App& app, Action& action) {
    auto arguments = std::make_shared<Arguments>();
    CLI::App* command =
        app.add_subcommand("eval", "Quality of a saved SAE on stored activations, in their raw units");
    command->add_option("sae", arguments->folder, "SAELens folder: cfg.json and sae_weights.safetensors")
        ->required();
    command->add_option("--data", arguments->files, "Activation files; globs")->required();
    command->add_option("--dataset", arguments->dataset,
                        "Dataset in them, e.g. resid_post/12; by default what the SAE was trained on");
    command->add_option("--target", arguments->target,
                        "A transcoder's target dataset; by default what it was trained on");
    command->add_option("--rows", arguments->rows, "The last so many rows; all by default")->check(positive);
    command
        ->add_option("--norm-limit", arguments->norm_limit,
                     "Leave out rows of a larger norm; by default what the SAE was trained with, 0: none")
        ->check(not_negative);
    command->add_flag("--skip-corrupt", arguments->skip_corrupt,
                      "Leave out rows that cannot be read or are not finite, instead of ending");
    command->add_option("--device", arguments->device, "As run.device")
        ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
    command->add_flag("--json", arguments->json, "One JSON object");
    command->footer(
        "Where the files hold true_features (strata data synth), recovered_features is the share of them "
        "that a "
        "decoder row\nmatches at a cosine of 0.9 or more.\n"
        "Example: strata eval runs/demo/saes/NAME --data 'acts/*.h5' --dataset resid_post/12 --rows 16384");
    command->callback([arguments, &action] {
        action = [arguments] {
            return on_all_ranks(false, [&](Communicator& comm) { return evaluate(*arguments, comm); });
        };
    });
}

}  // namespace strata::cli
