// `strata bench`: a training step on this machine, verb by verb, beside the plain float32 product x[B, n] .
// W[n, M] that dense trainers pay several times a step. Every figure is the best of the repeats, taken in
// turn in one process, so that their ratios hold on a shared machine. On a GPU there is no such product; what
// its memory can do shows the copy.

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <dnnl.hpp>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "cli/command.h"
#include "comm/agree.h"
#include "comm/ranks.h"
#include "comm/reducer.h"
#include "data/dataset.h"
#include "device/cpu/kernels.h"
#include "device/cpu/screen_kernels.h"
#include "device/gpu.h"
#include "eval/evaluate.h"
#include "sae/sae.h"
#include "train/pass.h"
#include "train/reduce.h"
#include "train/step.h"
#include "train/trial.h"

namespace strata::cli {
namespace {

using device::CodeSet;

struct Arguments {
    std::int64_t rows = 4096, n = 576, width = 16384, warm_steps = 40, repeats = 6;
    std::optional<std::int64_t> aux_k;
    double k = 64;
    std::string kind = "batch_topk", sae;
    int threads = 0;
    std::vector<std::string> files;
    std::string dataset = "resid_post/*", form = "auto";
    bool json = false, atm = false, check = false;
    double dead = 0;
    bool avx2 = false;
    std::string where = "auto";
    device::CpuOptions cpu;
};

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// This rank's rows of a fixed batch, and what they were multiplied by to be of about unit length: the first
// of a dataset, or sums of random directions, whose pre-activations have the heavy tail that real ones have.
struct FixedBatch {
    Array<float> x;
    double scale = 1;
};

FixedBatch make_batch(const Arguments& a, Communicator& comm) {
    const std::int64_t first = a.rows * comm.rank() / comm.size();
    const std::int64_t last = a.rows * (comm.rank() + 1) / comm.size();
    Array<float> x(static_cast<std::size_t>((last - first) * a.n));
    if (!a.files.empty()) {
        const std::vector<data::Dataset> found = data::find_datasets(a.files, {a.dataset});
        if (found.front().n != a.n)
            refuse("--n {}: dataset '{}' has rows of {}", a.n, found.front().name, found.front().n);
        if (found.front().rows < a.rows)
            refuse("--rows {}: dataset '{}' has {}", a.rows, found.front().name, found.front().rows);
        data::Reader(found.front()).read(first, x);
    } else {
        constexpr std::int64_t directions = 2048;
        constexpr int active = 24;
        std::vector<float> basis(static_cast<std::size_t>(directions * a.n));
        Random random(0, Purpose::synthetic);
        for (float& v : basis) v = random.normal();
        for (std::int64_t b = first; b < last; ++b) {
            Random row(0, Purpose::synthetic, static_cast<std::uint64_t>(b) + 1);
            for (int i = 0; i < active; ++i) {
                const std::uint32_t j = row.below(directions);
                const float weight = -std::log(1.0F - row.uniform());
                device::kernels().add(basis.data() + j * a.n, weight, a.n, x.data() + (b - first) * a.n);
            }
        }
    }
    // A few sinks would set the scale of real rows: the median norm does not mind them.
    std::vector<float> norms;
    for (std::int64_t b = 0; b < last - first; ++b)
        norms.push_back(std::sqrt(device::kernels().dot(x.data() + b * a.n, x.data() + b * a.n, a.n)));
    std::vector<float> sorted = norms;
    std::ranges::nth_element(sorted, sorted.begin() + std::ssize(sorted) / 2);
    const float median = sorted[sorted.size() / 2];
    for (std::int64_t b = 0; b < last - first; ++b)
        device::kernels().multiply(1.0F / std::max(median, norms[static_cast<std::size_t>(b)] / 10), a.n,
                                   x.data() + b * a.n);
    return {std::move(x), 1 / static_cast<double>(median)};
}

// Latents that count as dead, their encoders so short that they are never selected and still have positive
// pre-activations for the auxiliary loss to take.
void make_dead(device::Device& device, train::TrainedSae& sae, std::int64_t n, double share) {
    const auto every = static_cast<std::size_t>(std::llround(1 / share));
    std::vector<float> row(static_cast<std::size_t>(n));
    for (std::size_t j = 0; j < sae.silent.size(); j += every) {
        sae.silent[j] = static_cast<std::uint64_t>(sae.config.dead_after_tokens);
        float* direction = sae.parameters.w_enc.data() + static_cast<std::int64_t>(j) * n;
        device.download(direction, std::as_writable_bytes(std::span(row)));
        device::kernels().multiply(0.1F, n, row.data());
        device.upload(std::as_bytes(std::span(row)), direction);
    }
    device.encoder_changed(sae.parameters);
}

// Of a trained SAE as many of those that have no code in the batch; `codes` counts this rank's. Collective.
void make_silent_dead(Communicator& comm, train::TrainedSae& sae, std::vector<double> codes, double share) {
    comm.sum(codes);
    const auto silent = std::ranges::count(codes, 0.0);
    const auto wanted = std::llround(share * static_cast<double>(codes.size()));
    if (silent < wanted)
        refuse("--dead {}: {} of {}'s {} latents have no code in these rows; give at most {:.3f}", share,
               silent, sae.config.init_from, codes.size(),
               static_cast<double>(silent) / static_cast<double>(codes.size()));
    std::int64_t made = 0;
    for (std::size_t j = 0; j < codes.size() && made < wanted; ++j)
        if (codes[j] == 0) {
            sae.silent[j] = static_cast<std::uint64_t>(sae.config.dead_after_tokens);
            ++made;
        }
}

device::Tensors copy_of(const device::Tensors& from, device::Device& device, device::Device& other) {
    device::Tensors to = device::make_tensors(other, from);
    for (const auto tensor : {&device::Tensors::w_enc, &device::Tensors::w_dec, &device::Tensors::b_enc,
                              &device::Tensors::b_dec, &device::Tensors::latent, &device::Tensors::w_skip}) {
        const std::vector<float> values = sae::host_copy(device, from.*tensor);
        other.upload(std::as_bytes(std::span(values)), (to.*tensor).data());
    }
    return to;
}

// Whether the codes of the batch are those of the CPU's float32 encoder, bit for bit.
bool codes_agree(device::Device& device, device::Device& plain, Communicator& comm,
                 const train::TrainedSae& sae, const data::Batch& batch, std::int64_t rows_of_all) {
    const device::Tensors same = copy_of(sae.parameters, device, plain);
    using Codes = std::tuple<std::vector<std::uint32_t>, std::vector<std::uint32_t>, std::vector<float>>;
    const auto codes_of = [&](device::Device& one, const device::Tensors& parameters) {
        float guess = sae.guess, margin = sae.margin;
        one.center({batch.x, batch.rows}, parameters);
        sae.kind->select({one, comm, parameters, sae.config, rows_of_all, batch.rows, guess, margin});
        Codes codes;
        std::apply([&](auto&... part) { one.read_codes(part...); }, codes);
        return codes;
    };
    std::array<std::uint32_t, 1> differ = {codes_of(device, sae.parameters) == codes_of(plain, same) ? 0U
                                                                                                     : 1U};
    comm.any(differ);
    return differ[0] == 0;
}

// A thing timed: what it computes and moves at the least, rows that are gathered counted each time.
struct Case {
    std::string what;
    std::function<void()> work;
    double operations = 0, bytes = 0;
    double memory = 0;  // bytes without what is gathered again, which a cache could hold
    double narrow = 1;  // how many times the operations of float32 the instructions in use do
    double best = 1e30;
    double bound = 0;  // seconds, by the rates of the plain product and the copy, whichever is longer
};

// Of a product of screened integers against one of float32: four or two multiplications in place of one.
double narrowing(const Arguments& a) {
    const device::ScreenKernels* kernels = device::screen_kernels();
    if (kernels == nullptr || a.cpu.encoder == "float32") return 1;
    return kernels->largest == 127 ? 4 : 2;
}

int bench(const Arguments& a, Communicator& comm) {
    if (a.avx2) device::use_avx2_only();
    FixedBatch made;
    together(comm, [&] { made = make_batch(a, comm); });
    const Array<float>& x = made.x;
    comm.max(std::span(&made.scale, 1));  // one for the weights of all ranks
    const std::int64_t rows = std::ssize(x) / a.n;
    const int threads = a.threads > 0 ? a.threads : std::max(1, omp_get_num_procs() / comm.ranks_on_node());
    const std::unique_ptr<device::Device> device = device::make_device(comm, {a.where, threads, a.cpu});
    SaeConfig config;
    config.kind = a.kind;
    config.width = a.width;
    config.k = a.k;
    config.aux_k = a.aux_k;
    config.init_from = a.sae;
    if (a.atm) config.atm = AtmConfig{.start_step = 1, .ramp_steps = 0};
    const data::Batch batch{.x = x, .rows = rows, .first = a.rows * comm.rank() / comm.size()};
    train::Trial trial(*device, comm, config, sae::shape_of(config, a.n, false), a.rows, batch, made.scale);
    train::TrialBatches batches(*device, {batch});
    train::TrainedSae& sae = trial.sae;
    train::Workbench& workbench = trial.bench;
    const device::Shape& shape = sae.parameters;
    const train::Slice slice = trial.replicas.updated(a.width);
    std::int64_t step = 0;
    train::StepReport report;
    // Without a rate where as many pairs are to stay active, or latents dead, or weights what they are.
    const double lr = sae.kind->elementwise() || a.dead > 0 || !a.sae.empty() ? 0 : 1e-3;
    if (a.dead > 0 && a.sae.empty()) make_dead(*device, sae, a.n, a.dead);
    const auto one_step = [&] {
        if (a.form == "lists") sae.density = std::min(sae.density, sae::dense_share(shape, false));
        if (a.form == "dense") sae.density = 1;
        report = train::train_step(workbench, sae, {}, batches.next(), step++, lr);
    };
    if (a.dead > 0 && !a.sae.empty()) {
        one_step();
        make_silent_dead(comm, sae, report.codes.count, a.dead);
    }
    for (std::int64_t i = 0; i < a.warm_steps; ++i) one_step();

    const bool host = device->host_memory();
    Array<float> plain_weights, product;
    if (host) {
        plain_weights.grow(static_cast<std::size_t>(a.n * a.width));  // [n, M], the layout such a product has
        product.grow(static_cast<std::size_t>(rows * a.width));
        for (std::int64_t j = 0; j < a.width; ++j)
            for (std::int64_t c = 0; c < a.n; ++c)
                plain_weights[static_cast<std::size_t>(c * a.width + j)] =
                    sae.parameters.w_enc.data()[j * a.n + c];
    }

    const device::SetUse main{.set = CodeSet::main};
    device::LatentSums sums;
    const float scale = 2.0F / static_cast<float>(a.rows);
    device::OptimizerStep nothing;  // lr 0: the state stays what it is
    // Least work, of all ranks: K codes; matrices and rows once. Gathered rows count each time.
    const double n = static_cast<double>(a.n), m = static_cast<double>(a.width);
    const double b = static_cast<double>(a.rows), codes = a.k * b;
    const auto elements = static_cast<std::size_t>(a.n * a.width);
    Array<float> from(host ? elements : 0), to(from.size());
    const auto copy = [&] {
        const float* whole[] = {workbench.gradient.w_enc.data()};
        host ? train::copy(from, to, threads)
             : void(device->sum_in_order(whole, elements, workbench.gradient.w_dec.data()));
    };
    std::vector<Case> cases = {
        {"step", one_step, 2 * b * n * m + 8 * n * codes, 4 * n * m * 17, 4 * n * m * 17, narrowing(a)},
        {"copy of W", copy, 0, 8 * n * m * comm.size(), 8 * n * m * comm.size()}};
    if (host)
        cases.push_back({"plain product",
                         [&] {
                             omp_set_num_threads(threads);
                             dnnl_sgemm('N', 'N', rows, a.width, a.n, 1, x.data(), a.n, plain_weights.data(),
                                        a.width, 0, product.data(), a.width);
                         },
                         2 * b * n * m, 4 * (b * n + n * m + b * m)});
    // The verbs by themselves, of kinds that have no more than these.
    if (!sae.kind->elementwise() && shape.groups() == 1 && !config.atm)
        cases.insert(cases.end(),
                     {{"  center", [&] { device->center(data::rows_of(batches.next()), sae.parameters); },
                       b * n, 12 * b * n, 12 * b * n},
                      {"  encode + gate",
                       [&] {
                           sae.kind->select(
                               {*device, comm, sae.parameters, config, a.rows, rows, sae.guess, sae.margin});
                       },
                       2 * b * n * m, 4 * (b * n + n * m), 4 * (b * n + n * m), narrowing(a)},
                      {"  decode + backprop", [&] { device->decode(CodeSet::main, sae.parameters, scale); },
                       4 * n * codes, 4 * n * (codes + 2 * b), 4 * n * (2 * b + std::min(codes, m))},
                      {"  accumulate",
                       [&] {
                           device->accumulate({&main, 1}, {}, sae.parameters, workbench.gradient, {&sums, 1},
                                              [](std::int64_t, std::int64_t) {});
                       },
                       4 * n * codes, 4 * n * (2 * codes + 3 * m), 4 * n * (2 * b + 3 * m)},
                      {"  reduce", [&] { train::reduce_gradients(workbench, 1, false); }},
                      {"  update",
                       [&] {
                           device->update(sae.parameters, workbench.gradient, sae.first, sae.second, nothing,
                                          slice.first, slice.last);
                       },
                       0, 4 * n * m * 14, 4 * n * m * 14}});
    for (std::int64_t r = 0; r < a.repeats; ++r) {
        for (Case& one : cases) {
            comm.barrier();
            const double start = seconds();
            one.work();
            float last = 0;  // it comes when all that was queued is done
            device->download(sae.parameters.b_dec.data(), std::as_writable_bytes(std::span(&last, 1)));
            double taken = seconds() - start;
            comm.max(std::span(&taken, 1));
            one.best = std::min(one.best, taken);
        }
    }
    bool agree = true;
    if (a.check) {
        if (sae.kind->elementwise()) refuse("--check compares selections: topk, batch_topk or matryoshka");
        const std::unique_ptr<device::Device> plain =
            device::make_cpu_device(threads, {"float32", "dithered"});
        plain->prepare(rows, a.n, a.width, static_cast<std::int64_t>(a.k * static_cast<double>(rows)) + 1);
        agree = codes_agree(*device, *plain, comm, sae, batch, a.rows);
    }
    if (!agree) fail("the codes are not those of the float32 encoder");
    if (comm.rank() != 0) return exit_done;
    // A verb's bound; a step's is the sum of its verbs', where these were timed. Of a GPU only the memory's
    // is known.
    const Case &whole = cases[0], &copied = cases[1];
    const std::size_t verbs = host ? 3 : 2;
    const auto bound_of = [&](const Case& one) {
        const double computing = host ? one.operations / one.narrow * cases[2].best / cases[2].operations : 0;
        return std::max(computing, one.memory * copied.best / copied.memory);
    };
    for (Case& one : std::span(cases).subspan(verbs)) cases[0].bound += one.bound = bound_of(one);
    if (cases.size() == verbs) cases[0].bound = bound_of(whole);
    nlohmann::ordered_json result = {
        {"kind", a.kind},
        {"rows", a.rows},
        {"n", a.n},
        {"width", a.width},
        {"k", a.k},
        {"l0_of_rank", static_cast<double>(report.sums.active) / static_cast<double>(rows)},
        {"auxiliary_of_row", static_cast<double>(report.auxiliary_codes) / static_cast<double>(rows)},
        {"dense", report.dense},
        {"density", sae.density},
        {"ranks", comm.size()},
        {"device", device->name()},
        {"rows_per_second", static_cast<double>(a.rows) / whole.best},
        {"step_over_product", host ? nlohmann::ordered_json(whole.best / cases[2].best) : nullptr},
        {"encoder", a.cpu.encoder},
        {"checked", a.check},
        {"workspace_bytes", device->workspace_bytes()}};
    for (const Case& one : cases) {
        const std::string name = one.what.substr(one.what.find_first_not_of(' '));
        result["seconds"][name] = one.best;
        if (one.operations > 0) result["operations"][name] = one.operations;
        if (one.bytes > 0) result["bytes"][name] = one.bytes;
        if (one.bound > 0) result["share_of_bound"][name] = one.bound / one.best;
    }
    if (a.json) {
        fmt::print("{}\n", result.dump());
        return exit_done;
    }
    fmt::print("{}{}, B={} n={} M={} k={}, {} rank{}, {}; {:.1f} active{}, {}\n", a.kind,
               a.atm ? " + atm" : "", a.rows, a.n, a.width, a.k, comm.size(), comm.size() == 1 ? "" : "s",
               device->name(), static_cast<double>(report.sums.active) / static_cast<double>(rows),
               report.auxiliary_codes == 0
                   ? ""
                   : fmt::format(", {:.1f} auxiliary",
                                 static_cast<double>(report.auxiliary_codes) / static_cast<double>(rows)),
               report.dense ? "dense products" : "lists of pairs");
    // A rate above the copy's comes out of caches; one above the product's out of narrower numbers.
    const auto rate = [](double amount, const Case& one) {
        return amount > 0 ? fmt::format("{:.1f}", amount / one.best / 1e9) : "";
    };
    fmt::print("{:<20} {:>10} {:>10} {:>10} {:>10} {:>10}\n", "", "ms", "/ product", "Gop/s", "GB/s",
               "of bound");
    for (const Case& one : cases)
        fmt::print("{:<20} {:>10.2f} {:>10} {:>10} {:>10} {:>10}\n", one.what, 1e3 * one.best,
                   host ? fmt::format("{:.3f}", one.best / cases[2].best) : "", rate(one.operations, one),
                   rate(one.bytes, one),
                   one.bound > 0 ? fmt::format("{:.0f} %", 100 * one.bound / one.best) : "");
    fmt::print("{:.0f} rows/s; workspace {} MB above parameters, gradients and moments{}\n",
               static_cast<double>(a.rows) / whole.best, device->workspace_bytes() >> 20,
               a.check ? "; codes as by the float32 encoder" : "");
    return exit_done;
}

}  // namespace

void add_bench_command(CLI::App& app, Action& action) {
    auto arguments = std::make_shared<Arguments>();
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
            return on_all_ranks(false, [&](Communicator& comm) { return bench(*arguments, comm); });
        };
    });
}

}  // namespace strata::cli
