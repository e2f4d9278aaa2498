#pragma once
// An SAE in training on a CPU device, from a test problem, with what train_step needs around it.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "comm/reducer.h"
#include "device/cpu/cpu_device.h"
#include "support/inside.h"
#include "support/problem.h"
#include "train/step.h"

namespace strata::test {

struct Training {
    device::CpuDevice device;
    Reducer reducer;
    train::Workbench bench;
    train::TrainedSae sae;

    // `rows` of the global batch; any rank may have all of them.
    Training(Communicator& comm, const reference::Sae<float>& start, const SaeConfig& config,
             std::int64_t rows, double mean_square, int threads = 2, bool overlap = false)
        : device(threads),
          reducer(comm, overlap),
          bench{device,
                comm,
                reducer,
                device::make_tensors(device, static_cast<std::int64_t>(start.n),
                                     static_cast<std::int64_t>(start.width)),
                rows,
                mean_square},
          sae(train::make_sae(device, config, "the SAE", static_cast<std::int64_t>(start.n))) {
        device.prepare(rows, static_cast<std::int64_t>(start.n), config.width, 1);
        put(start, sae.parameters, device);
    }
    Training(const Training&) = delete;
    Training& operator=(const Training&) = delete;

    // Rows [first, last) of the global batch x.
    train::StepReport step(const std::vector<float>& x, std::int64_t first, std::int64_t last,
                           const OptimizerConfig& optimizer, std::int64_t number, double lr) {
        const std::int64_t n = sae.parameters.n;
        data::Batch batch;
        batch.x = std::span(x).subspan(static_cast<std::size_t>(first * n),
                                       static_cast<std::size_t>((last - first) * n));
        batch.rows = last - first;
        batch.first = first;
        return train::train_step(bench, sae, optimizer, batch, number, lr);
    }
    train::StepReport step(const std::vector<float>& x, const OptimizerConfig& optimizer, std::int64_t number,
                           double lr) {
        return step(x, 0, bench.batch_size, optimizer, number, lr);
    }

    reference::Sae<float> parameters() { return get(sae.parameters, device); }
    reference::Sae<float> gradient() { return get(bench.gradient, device); }

    // Of all that the next step depends on.
    std::uint64_t state_bits() {
        std::uint64_t hash = bits_of(sae.silent);
        for (const device::Tensors* t : {&sae.parameters, &sae.first, &sae.second})
            for (const device::Memory<float>* m : {&t->w_enc, &t->w_dec, &t->b_enc, &t->b_dec})
                hash = bits_of(get(*m, device), hash);
        return bits_of(std::vector<float>{sae.guess, sae.margin}, hash);
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
