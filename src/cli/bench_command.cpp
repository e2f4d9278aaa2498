// `strata bench`.

#include "base/error.h"
#include "cli/bench.h"
#include "cli/command.h"
#include "comm/ranks.h"
#include "sae/kind.h"

namespace strata::cli {

void add_bench_command(CLI::App& app, Action& action) {
    auto arguments = std::make_shared<BenchArguments>();
    CLI::App* command = app.add_subcommand(
        "bench", "A training step on this machine, verb by verb, beside the plain f32 product");
    command->add_option("--kind", arguments->kind, "SAE kind")->check(CLI::IsMember([] {
        std::vector<std::string> names;
        for (const sae::Kind& kind : sae::kinds()) names.emplace_back(kind.name);
        return names;
    }()));
    command->add_option("--rows", arguments->rows, "Rows of the global batch, B")->check(positive);
    command->add_option("--n", arguments->n, "Input width")->check(positive);
    command->add_option("--width", arguments->width, "Latents, M")->check(positive);
    command->add_option("--k", arguments->k, "Mean active latents per row")->check(positive);
    command->add_option("--threads", arguments->threads,
                        "Threads per rank; by default the cores shared among the ranks");
    command->add_option("--warm-steps", arguments->warm_steps, "Training steps before anything is timed");
    command->add_option("--repeats", arguments->repeats, "The best of so many is reported")->check(positive);
    command->add_option("--data", arguments->files,
                        "Activation files to take the batch from; synthetic rows otherwise");
    command->add_option("--dataset", arguments->dataset, "Dataset in them");
    command->add_option("--sae", arguments->sae,
                        "Folder of a trained SAE of this width to take the weights from, as sae.init_from");
    command->add_option("--device", arguments->where, "As run.device")
        ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
    command->add_option("--encoder", arguments->cpu.encoder, "As run.encoder")
        ->check(CLI::IsMember({"auto", "float32", "tf32", "screened"}));
    command->add_option("--screen-bound", arguments->cpu.screen_bound, "As run.screen_bound")
        ->check(CLI::IsMember({"dithered", "certain"}));
    command->add_flag("--avx2", arguments->avx2, "As on a CPU without AVX-512, oneDNN included");
    command->add_flag("--atm", arguments->atm, "With adaptive temporal masking");
    command
        ->add_option("--form", arguments->form, "Steps of relu, jumprelu, gated: by lists or dense products")
        ->check(CLI::IsMember({"auto", "lists", "dense"}));
    command
        ->add_option(
            "--dead", arguments->dead,
            "Share of latents that are dead, for the auxiliary loss; with --sae of those that have no "
            "code in the rows")
        ->check(CLI::Range(0.0, 0.5));
    command->add_option("--aux-k", arguments->aux_k,
                        "Auxiliary codes of a row, with --dead; as sae.aux_k by default");
    command->add_flag("--check", arguments->check, "Compares the codes with those of the float32 encoder");
    command->add_flag("--json", arguments->json, "One JSON object");
    command->footer("Example: mpirun -n 2 strata bench --k 32");
    command->callback([arguments, &action] {
        action = [arguments] {
            return on_all_ranks(false, [&](Communicator& comm) {
                Timed timed = bench(*arguments, comm);
                if (comm.rank() == 0) report_bench(*arguments, std::move(timed));
                return exit_done;
            });
        };
    });
}

}  // namespace strata::cli
