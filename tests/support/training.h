#pragma once
// An SAE in training, from a test problem, with what train_step needs around it.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "comm/reducer.h"
#include "device/gpu.h"
#include "sae/sae.h"
#include "support/inside.h"
#include "support/problem.h"
#include "support/test_device.h"
#include "train/step.h"

namespace strata::test {

// How an elementwise step is made: by lists of the whole batch, by lists of ranges of rows (the first of
// which turn out to be too long), or by dense products.
enum class Form { lists, ranges, dense };
inline const char* name_of(Form form) {
    return form == Form::lists ? "lists" : form == Form::ranges ? "ranges" : "dense";
}

// Whether all ranks give the same. Collective.
inline bool same_on_all_ranks(Communicator& comm, std::uint64_t bits) {
    std::vector<std::uint64_t> all(static_cast<std::size_t>(comm.size()));
    comm.gather({&bits, 1}, all);
    return std::ranges::all_of(all, [&](std::uint64_t other) { return other == bits; });
}

struct Training {
    struct Options {
        int threads = 2;
        bool overlap = false;
        int group_size = 0;      // of train::Replicas
        std::int64_t steps = 0;  // of the run
        std::uint64_t seed = 0;
        std::int64_t rows_at_once = 0;  // micro-batches; 0: all
        bool transcoder = false;
        bool reference = false;  // on the CPU, whatever device the tests are about
        device::CpuOptions cpu{};
        const device::ScreenKernels* screen = device::screen_kernels();
    };

    std::unique_ptr<device::Device> owner;
    device::Device& device;
    train::Replicas replicas;
    Reducer reducer;
    std::unique_ptr<DeviceSums> sums;
    train::TrainedSae sae;
    train::Workbench bench;

    // `rows` of the global batch; any rank may have all of them. Collective.
    Training(Communicator& comm, const reference::Sae<float>& start, const SaeConfig& config,
             std::int64_t rows, double mean_square, const Options& options)
        : owner(options.reference ? std::make_unique<device::CpuDevice>(options.threads)
                                  : make_test_device(options.threads, options.cpu, options.screen)),
          device(*owner),
          replicas(comm, device, options.group_size),
          reducer(*replicas.across, options.overlap),
          sums(device::make_device_sums(comm, device, 0)),
          sae(train::make_sae(device, replicas, config, "the SAE",
                              sae::shape_of(config, static_cast<std::int64_t>(start.n), options.transcoder))),
          bench(train::make_workbench(device, replicas, reducer, sums.get(), sae.parameters, rows)) {
        bench.steps = options.steps;
        bench.mean_square = mean_square;
        bench.seed = options.seed;
        device.hold_at_most(options.rows_at_once);
        if (options.rows_at_once > 0) bench.rows_at_once = options.rows_at_once;
        device.prepare(rows, static_cast<std::int64_t>(start.n), config.width, 1);
        restart(start);
    }
    Training(Communicator& comm, const reference::Sae<float>& start, const SaeConfig& config,
             std::int64_t rows, double mean_square)
        : Training(comm, start, config, rows, mean_square, Options{}) {}
    Training(const Training&) = delete;
    Training& operator=(const Training&) = delete;

    // Rows [first, last) of the global batch x, with their targets where it has some.
    train::StepReport step(const std::vector<float>& x, const std::vector<float>& target, std::int64_t first,
                           std::int64_t last, const OptimizerConfig& optimizer, std::int64_t number,
                           double lr) {
        const std::int64_t n = sae.parameters.n;
        const auto rows_of = [&](const std::vector<float>& values) {
            return std::span(values).subspan(static_cast<std::size_t>(first * n),
                                             static_cast<std::size_t>((last - first) * n));
        };
        data::Batch batch;
        batch.x = rows_of(x);
        if (!target.empty()) batch.target = rows_of(target);
        batch.rows = last - first;
        batch.first = first;
        return train::train_step(bench, sae, optimizer, batch, number, lr);
    }
    train::StepReport step(const std::vector<float>& x, std::int64_t first, std::int64_t last,
                           const OptimizerConfig& optimizer, std::int64_t number, double lr) {
        return step(x, {}, first, last, optimizer, number, lr);
    }
    train::StepReport step(const std::vector<float>& x, const OptimizerConfig& optimizer, std::int64_t number,
                           double lr) {
        return step(x, 0, bench.batch_size, optimizer, number, lr);
    }

    // Of the next step.
    void set_form(Form form) {
        sae.density = form == Form::dense ? 1 : form == Form::ranges ? 0.1 : 0;
        bench.list_pairs =
            form == Form::ranges ? bench.batch_size * sae.parameters.width / 10 : sae::most_list_pairs;
    }

    reference::Sae<float> parameters() { return get(sae.parameters, device); }

    // Of the whole batch, from the slices that the ranks hold after a step. Collective.
    reference::Sae<float> gradient() {
        reference::Sae<float> whole = get(bench.gradient, device);
        for (std::vector<float>* matrix : {&whole.w_enc, &whole.w_dec})
            *matrix = of_all_ranks(updated_rows(*matrix));
        return whole;
    }

    // Other parameters, the moments as they are. Collective.
    void restart(const reference::Sae<float>& from) {
        set(from, sae.parameters);
        device.encoder_changed(sae.parameters);
    }

    // Parameters, moments and counters of one that trains the same SAE alone. Collective.
    void take_over(Training& other) {
        restart(other.parameters());
        for (const auto& [from, to] :
             {std::pair{&other.sae.first, &sae.first}, std::pair{&other.sae.second, &sae.second}}) {
            reference::Sae<float> moment = get(*from, other.device);
            for (std::vector<float>* matrix : {&moment.w_enc, &moment.w_dec}) *matrix = updated_rows(*matrix);
            set(moment, *to);
        }
        sae.silent = other.sae.silent;
        sae.density = other.sae.density;
        sae.atm = other.sae.atm;
        sae.resampled_at = other.sae.resampled_at;
    }

    // What every rank must hold alike.
    std::uint64_t common_bits() {
        std::uint64_t hash = bits_of(sae.silent, bits_of(parameters()));
        for (const device::Tensors* t : {&sae.first, &sae.second})
            for (const device::Memory<float>* m : {&t->b_enc, &t->b_dec, &t->latent, &t->w_skip})
                hash = bits_of(get(*m, device), hash);
        for (const auto* average : {&sae.atm.activation, &sae.atm.frequency, &sae.atm.contribution})
            hash = bits_of(*average, hash);
        hash = bits_of(std::vector<std::int64_t>{sae.atm.steps, sae.resampled_at}, hash);
        hash = bits_of(std::vector<double>{sae.density}, hash);
        if (sae.config.threshold_scope == "local") return hash;
        return bits_of(std::vector<float>{sae.guess, sae.margin}, hash);
    }

    // All that the next step depends on: that, and the moments of the matrices, which each rank has for the
    // latents that it updates.
    std::uint64_t state_bits() {
        std::uint64_t hash = common_bits();
        for (const device::Tensors* t : {&sae.first, &sae.second})
            for (const device::Memory<float>* m : {&t->w_enc, &t->w_dec})
                hash = bits_of(get(*m, device), hash);
        return hash;
    }

    // The same in every division of the ranks. Collective.
    std::uint64_t whole_state_bits() {
        std::uint64_t hash = common_bits();
        for (const device::Tensors* t : {&sae.first, &sae.second})
            for (const device::Memory<float>* m : {&t->w_enc, &t->w_dec}) {
                std::vector<float> whole = of_all_ranks(get(*m, device));
                for (float& v : whole) v += 0.0F;  // a sum has no negative zeros
                hash = bits_of(whole, hash);
            }
        return hash;
    }

    // Whether the replicas hold the same: all of them what all hold, and ranks with the same place in their
    // groups the same moments. Collective.
    bool replicas_agree() {
        const bool common = same_on_all_ranks(replicas.all, common_bits());
        return same_on_all_ranks(*replicas.across, state_bits()) && common;
    }

  private:
    // The rows of a matrix that this rank updates.
    std::vector<float> updated_rows(const std::vector<float>& matrix) const {
        const train::Slice mine = replicas.updated(sae.parameters.width);
        return {matrix.begin() + mine.first * sae.parameters.n,
                matrix.begin() + mine.last * sae.parameters.n};
    }

    // A matrix, from the rows that each rank of the group updates. Collective.
    std::vector<float> of_all_ranks(const std::vector<float>& rows) {
        std::vector<float> all(static_cast<std::size_t>(sae.parameters.width * sae.parameters.n), 0.0F);
        std::ranges::copy(rows,
                          all.begin() + replicas.updated(sae.parameters.width).first * sae.parameters.n);
        replicas.group->sum(std::span(all));
        return all;
    }

    // Ranks that share a matrix all write the same to it.
    void set(const reference::Sae<float>& from, device::Tensors& to) {
        replicas.group->barrier();
        put(from, to, device);
        replicas.group->barrier();
    }
};

inline SaeConfig make_config(const char* kind, std::size_t width, double k) {
    SaeConfig config;
    config.kind = kind;
    config.width = static_cast<std::int64_t>(width);
    config.k = k;
    return config;
}

// The global batch of a step.
inline std::vector<float> make_batch(std::size_t rows, std::size_t n, int step,
                                     Awkward kind = Awkward::none) {
    return make_problem(rows, n, 1, kind, 1000 + static_cast<std::uint64_t>(step)).x;
}

}  // namespace strata::test
