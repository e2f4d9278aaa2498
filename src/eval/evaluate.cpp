#include "eval/evaluate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "data/batch.h"
#include "data/lane.h"
#include "data/norm.h"

namespace strata::eval {

namespace {

// All but the codes by latent.
void add_rows(device::Device& device, const device::Tensors& sae, std::int64_t rows,
              const device::DecodeSums& decoded, Sums& sums) {
    std::vector<double> x(sums.x.size());
    sums.x_square += device.output_columns(sae, x);
    for (std::size_t c = 0; c < x.size(); ++c) sums.x[c] += x[c];
    sums.rows += static_cast<double>(rows);
    sums.decoded += decoded;
}

}  // namespace

void add_batch(device::Device& device, const device::Tensors& sae, std::int64_t rows,
               const device::DecodeSums& decoded, Sums& sums) {
    add_rows(device, sae, rows, decoded, sums);
    device.count_codes(sums.fired);
}

void add_batch(device::Device& device, const device::Tensors& sae, std::int64_t rows,
               const device::DecodeSums& decoded, std::span<const double> count, Sums& sums) {
    add_rows(device, sae, rows, decoded, sums);
    for (std::size_t j = 0; j < count.size(); ++j) sums.fired[j] += static_cast<std::uint64_t>(count[j]);
}

void reduce(Communicator& comm, Sums& sums) {
    device::DecodeSums& d = sums.decoded;
    std::vector<double> all = {sums.rows, sums.x_square};
    for (const double* sum : {&d.squared_error, &d.prefix_error, &d.l1, &d.cosine, &d.inner, &d.x_hat_square})
        all.push_back(*sum);
    const std::size_t scalars = all.size();
    all.insert(all.end(), sums.x.begin(), sums.x.end());
    comm.sum(all);
    comm.sum(std::span(&d.active, 1));
    sums.rows = all[0];
    sums.x_square = all[1];
    std::size_t at = 2;
    for (double* sum : {&d.squared_error, &d.prefix_error, &d.l1, &d.cosine, &d.inner, &d.x_hat_square})
        *sum = all[at++];
    std::copy(all.begin() + static_cast<std::ptrdiff_t>(scalars), all.end(), sums.x.begin());
    comm.sum(sums.fired);
}

Measures measures(const Sums& sums) {
    Measures m;
    m.rows = sums.rows;
    if (sums.rows == 0) return m;
    double variance = sums.x_square;
    for (const double x : sums.x) variance -= x * x / sums.rows;
    const device::DecodeSums& d = sums.decoded;
    m.reconstruction = d.squared_error / sums.rows;
    m.over_prefixes = d.prefix_error / sums.rows;
    m.fvu = variance > 0 ? d.squared_error / variance : 0;
    m.l0 = static_cast<double>(d.active) / sums.rows;
    m.l1 = d.l1 / sums.rows;
    m.cosine = d.cosine / sums.rows;
    m.relative_bias = d.inner != 0 ? d.x_hat_square / d.inner : 0;
    for (const std::uint64_t count : sums.fired) {
        const double half_decades = std::floor(2 * std::log10(static_cast<double>(count) / sums.rows));
        const double bin = std::clamp(half_decades + 2 * Measures::frequency_decades + 1, 1.0,
                                      2.0 * Measures::frequency_decades);
        ++m.frequencies[count == 0 ? 0 : static_cast<std::size_t>(bin)];
    }
    const auto latents = static_cast<double>(sums.fired.size());
    m.dead_fraction = static_cast<double>(std::ranges::count(sums.fired, 0U)) / latents;
    m.dense_fraction =
        static_cast<double>(std::ranges::count_if(
            sums.fired, [&](std::uint64_t count) { return static_cast<double>(count) > 0.1 * sums.rows; })) /
        latents;
    return m;
}

std::int64_t inference_rows(std::int64_t most, std::int64_t width) {
    return std::min(most, std::max<std::int64_t>(64, (std::int64_t{1} << 23) / width));
}

data::LeftOut for_each_batch(device::Device& device, const data::Dataset& dataset, std::int64_t first,
                             std::int64_t last, std::int64_t batch_size, double norm_limit, double scale,
                             Communicator& comm,
                             const std::function<void(const data::Batch&, std::int64_t global_rows)>& each) {
    const std::int64_t most = batch_size / comm.size() + 1;
    data::HeldRows x(dataset, most);
    std::optional<data::HeldRows> target;
    if (dataset.target) target.emplace(*dataset.target, most);
    data::BatchRoom room(&device, most, dataset.n, x.type,
                         target ? std::optional(target->type) : std::nullopt, static_cast<float>(scale));
    std::array<std::uint64_t, 2> left_out = {};  // over the limit, corrupt
    for (std::int64_t at = first; at < last; at += batch_size) {
        const std::int64_t size = std::min(batch_size, last - at);
        const std::int64_t begin = size * comm.rank() / comm.size();
        const std::int64_t rows = size * (comm.rank() + 1) / comm.size() - begin;
        std::span<const std::byte> x_rows, target_rows;
        if (rows > 0) x_rows = x.read({at + begin, rows});
        if (rows > 0 && target) target_rows = target->read({at + begin, rows});
        room.open();
        std::int64_t kept = 0;
        for (std::int64_t row = 0; row < rows; ++row) {
            const auto x_row = x.row(x_rows, row);
            const double squared = data::squared_norm(x.type, x_row, dataset, at + begin + row);
            bool usable = !std::isnan(squared);
            std::span<const std::byte> target_row;
            if (target) {
                target_row = target->row(target_rows, row);
                usable =
                    data::is_usable(target->type, target_row, target->dataset, at + begin + row) && usable;
            }
            if (!usable || !data::within_limit(squared, norm_limit))
                ++left_out[usable ? 0 : 1];
            else
                room.put(kept++, x_row, target_row);
        }
        room.send(kept);
        auto global = static_cast<std::uint64_t>(kept);
        comm.sum(std::span(&global, 1));
        each(room.batch(0, 0), static_cast<std::int64_t>(global));
    }
    comm.sum(left_out);
    return {left_out[0], left_out[1]};
}

}  // namespace strata::eval
