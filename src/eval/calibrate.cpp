#include "eval/calibrate.h"

#include <bit>
#include <vector>

#include "comm/selection.h"
#include "sae/kind.h"

namespace strata::eval {

float calibrate_threshold(device::Device& device, Communicator& comm, const device::Tensors& sae, double k,
                          float lower, const EachBatch& each_batch) {
    // All ranks from the lowest guess: they pass over the batches together, and a value between two guesses
    // would be missing on one of them.
    double highest = -static_cast<double>(lower);
    comm.max(std::span(&highest, 1));
    lower = static_cast<float>(-highest);
    for (;; lower *= 0.5F) {
        if (lower < 1e-30F) lower = 0;
        std::vector<float> values;
        std::uint64_t rows = 0;
        each_batch([&](const data::Batch& batch) {
            device.center(data::rows_of(batch), sae);
            device.screen_above(sae, {&lower, 1}, 0);
            device.candidate_values(values);
            rows += static_cast<std::uint64_t>(batch.rows);
        });
        comm.sum(std::span(&rows, 1));
        const auto wanted =
            static_cast<std::uint64_t>(sae::codes_of_batch(k, static_cast<std::int64_t>(rows)));
        const Selection found = select_largest(
            comm, wanted, [&](std::uint32_t prefix, int shift, int digits, std::span<std::uint64_t> counts) {
                for (const float value : values) {
                    const auto bits = std::bit_cast<std::uint32_t>(value);
                    if ((bits >> shift >> digits) == prefix) ++counts[(bits >> shift) & ((1U << digits) - 1)];
                }
            });
        if (found.available >= wanted || lower == 0) return found.threshold;
    }
}

}  // namespace strata::eval
