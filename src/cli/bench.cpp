#include "cli/bench.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <dnnl.hpp>

#include "base/error.h"
#include "comm/agree.h"
#include "device/cpu/kernels.h"
#include "device/cpu/screen_kernels.h"
#include "device/gpu.h"
#include "sae/sae.h"
#include "train/pass.h"
#include "train/reduce.h"
#include "train/trial.h"

namespace strata::cli {

using device::CodeSet;

namespace {

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Latents that count as dead, their encoders so short that they are never selected and still have positive
// pre-activations for the auxiliary loss to take.
void make_dead(device::Device& device, train::TrainedSae& sae, std::int64_t n, double share) {
    const auto every = static_cast<std::size_t>(std::llround(1 / share));
    std::vector<float> row(static_cast<std::size_t>(n));
    for (std::size_t j = 0; j < sae.silent.size(); j += every) {
        sae.silent[j] = static_cast<std::uint64_t>(*sae.config.dead_after_tokens);
        float* direction = sae.parameters.w_enc.data() + static_cast<std::int64_t>(j) * n;
        device.download(direction, std::as_writable_bytes(std::span(row)));
        device::kernels().multiply(0.1F, n, row.data());
        device.upload(std::as_bytes(std::span(row)), direction);
    }
    device.encoder_changed(sae.parameters);
}

// Of a trained SAE as many of those that have no code in the batch, of which a step was made. Collective.
void make_silent_dead(Communicator& comm, device::Device& device, train::TrainedSae& sae, double share) {
    std::vector<std::uint64_t> codes(sae.silent.size());
    device.count_codes(codes);
    comm.sum(codes);
    const auto silent = std::ranges::count(codes, 0U);
    const auto wanted = std::llround(share * static_cast<double>(codes.size()));
    if (silent < wanted)
        refuse("--dead {}: {} of {}'s {} latents have no code in these rows; give at most {:.3f}", share,
               silent, sae.config.init_from, codes.size(),
               static_cast<double>(silent) / static_cast<double>(codes.size()));
    std::int64_t made = 0;
    for (std::size_t j = 0; j < codes.size() && made < wanted; ++j)
        if (codes[j] == 0) {
            sae.silent[j] = static_cast<std::uint64_t>(*sae.config.dead_after_tokens);
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
bool codes_agree(device::Device& device, device::Device& plain, Communicator& comm, DeviceSums* sums,
                 const train::TrainedSae& sae, const data::Batch& batch, std::int64_t rows_of_all) {
    const device::Tensors same = copy_of(sae.parameters, device, plain);
    using Codes = std::tuple<std::vector<std::uint32_t>, std::vector<std::uint32_t>, std::vector<float>>;
    const auto codes_of = [&](device::Device& one, const device::Tensors& parameters) {
        float guess = sae.guess, margin = sae.margin;
        one.center({batch.x, batch.rows}, parameters);
        sae.kind->select({one, comm, sums, parameters, sae.config, rows_of_all, batch.rows, guess, margin});
        Codes codes;
        std::apply([&](auto&... part) { one.read_codes(part...); }, codes);
        return codes;
    };
    std::array<std::uint32_t, 1> differ = {codes_of(device, sae.parameters) == codes_of(plain, same) ? 0U
                                                                                                     : 1U};
    comm.any(differ);
    return differ[0] == 0;
}

// Of a product of screened integers against one of float32: four or two multiplications in place of one.
double narrowing(const BenchArguments& a) {
    const device::ScreenKernels* kernels = device::screen_kernels();
    if (kernels == nullptr || a.cpu.encoder == "float32") return 1;
    return kernels->largest == 127 ? 4 : 2;
}

}  // namespace

Timed bench(const BenchArguments& a, Communicator& comm) {
    if (a.avx2) device::use_avx2_only();
    if (a.dead > 0 && sae::kind_of(a.kind).elementwise())
        refuse("--dead: {} has no auxiliary loss for dead latents; leave it out", a.kind);
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
    config.dead_after_tokens = 10'000'000;  // no run whose length would give it
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
        make_silent_dead(comm, *device, sae, a.dead);
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
                           sae.kind->select({*device, comm, workbench.sums, sae.parameters, config, a.rows,
                                             rows, sae.guess, sae.margin});
                       },
                       2 * b * n * m, 4 * (b * n + n * m), 4 * (b * n + n * m), narrowing(a)},
                      {"  decode + backprop", [&] { device->decode(CodeSet::main, sae.parameters, scale); },
                       4 * n * codes, 4 * n * (codes + 2 * b), 4 * n * (2 * b + std::min(codes, m))},
                      {"  accumulate",
                       [&] {
                           device->accumulate({&main, 1}, {}, sae.parameters, workbench.gradient, {},
                                              [](std::int64_t, std::int64_t) {});
                       },
                       4 * n * codes, 4 * n * (2 * codes + 3 * m), 4 * n * (2 * b + 3 * m)},
                      {"  reduce", [&] { train::reduce_gradients(workbench, false); }},
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
    if (a.check) {
        if (sae.kind->elementwise()) refuse("--check compares selections: topk, batch_topk or matryoshka");
        const std::unique_ptr<device::Device> plain =
            device::make_cpu_device(threads, {"float32", "dithered"});
        plain->prepare(rows, a.n, a.width, static_cast<std::int64_t>(a.k * static_cast<double>(rows)) + 1);
        if (!codes_agree(*device, *plain, comm, workbench.sums, sae, batch, a.rows))
            fail("the codes are not those of the float32 encoder");
    }
    for (Case& one : cases) one.work = nullptr;  // it refers to what ends here
    return {std::move(cases), host,        comm.size(),    rows,
            report,           sae.density, device->name(), device->workspace_bytes()};
}

}  // namespace strata::cli
