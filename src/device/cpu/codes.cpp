// From candidates to codes: counting by digit, capping, keeping, and the transposed index by latent.

#include <omp.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "base/error.h"
#include "device/cpu/cpu_device.h"

namespace strata::device {

void CpuDevice::histogram(std::uint32_t prefix, int shift, int digits, std::span<std::uint64_t> counts) {
    const std::int64_t size = candidates_.size();
    const std::uint32_t mask = (1U << digits) - 1;
    std::ranges::fill(counts, 0);
#pragma omp parallel num_threads(threads_)
    {
        std::vector<std::uint64_t> own(counts.size(), 0);
#pragma omp for schedule(static)
        for (std::int64_t e = 0; e < size; ++e) {
            const auto bits = std::bit_cast<std::uint32_t>(candidates_.value[static_cast<std::size_t>(e)]);
            if ((bits >> shift >> digits) == prefix) ++own[(bits >> shift) & mask];
        }
#pragma omp critical
        for (std::size_t i = 0; i < own.size(); ++i) counts[i] += own[i];
    }
}

void CpuDevice::cap_rows(std::int64_t cap) {
    std::vector<std::uint32_t> order;
    std::uint32_t kept = 0;
    std::uint32_t begin = 0;
    for (std::int64_t b = 0; b < rows_; ++b) {
        const std::uint32_t end = candidates_.begin[static_cast<std::size_t>(b) + 1];
        order.resize(end - begin);
        std::iota(order.begin(), order.end(), begin);
        if (std::ssize(order) > cap) {
            std::ranges::nth_element(order, order.begin() + (cap - 1), [&](std::uint32_t a, std::uint32_t c) {
                return candidates_.value[a] != candidates_.value[c]
                           ? candidates_.value[a] > candidates_.value[c]
                           : candidates_.latent[a] < candidates_.latent[c];
            });
            order.resize(static_cast<std::size_t>(cap));
            std::ranges::sort(order);
        }
        candidates_.begin[static_cast<std::size_t>(b)] = kept;
        for (const std::uint32_t e : order) {  // e >= kept: moves towards the front only
            candidates_.latent[kept] = candidates_.latent[e];
            candidates_.value[kept++] = candidates_.value[e];
        }
        begin = end;
    }
    candidates_.begin[static_cast<std::size_t>(rows_)] = kept;
}

void CpuDevice::candidate_values(std::vector<float>& values) {
    values.insert(values.end(), candidates_.value.begin(), candidates_.value.begin() + candidates_.size());
}

// `passes(row, entry)` must be the same each time it is asked.
template <typename Passes>
void CpuDevice::keep_if(CodeSet set, const Passes& passes) {
    PairsByRow& out = table(set).pairs;
    out.begin.resize(static_cast<std::size_t>(rows_) + 1);
    out.begin[0] = 0;
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t b = 0; b < rows_; ++b) {
        const auto r = static_cast<std::size_t>(b);
        std::uint32_t count = 0;
        for (std::uint32_t e = candidates_.begin[r]; e < candidates_.begin[r + 1]; ++e) count += passes(r, e);
        out.begin[r + 1] = count;
    }
    std::partial_sum(out.begin.begin(), out.begin.end(), out.begin.begin());
    const std::size_t total = out.begin.back();
    for (auto* a : {&out.value, &table(set).gradient}) a->grow(total);
    out.latent.grow(total);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t b = 0; b < rows_; ++b) {
        const auto r = static_cast<std::size_t>(b);
        std::uint32_t at = out.begin[r];
        for (std::uint32_t e = candidates_.begin[r]; e < candidates_.begin[r + 1]; ++e) {
            if (!passes(r, e)) continue;
            out.latent[at] = candidates_.latent[e];
            out.value[at++] = candidates_.value[e];
        }
    }
}

void CpuDevice::keep(CodeSet set, float threshold, std::uint64_t ties) {
    if (ties == 0) {
        keep_if(set, [&](std::size_t, std::uint32_t e) { return candidates_.value[e] > threshold; });
        return;
    }
    // The entry after the last tie that is taken; entries are in order of (row, latent).
    const auto size = static_cast<std::uint32_t>(candidates_.size());
    std::uint32_t after = 0;
    for (; after < size && ties > 0; ++after) ties -= candidates_.value[after] == threshold;
    keep_if(set, [&](std::size_t, std::uint32_t e) {
        return candidates_.value[e] > threshold || (e < after && candidates_.value[e] == threshold);
    });
}

void CpuDevice::keep_above(CodeSet set, std::span<const float> thresholds) {
    keep_if(set, [&](std::size_t, std::uint32_t e) {
        return candidates_.value[e] > thresholds[candidates_.latent[e]];
    });
}

void CpuDevice::read_codes(std::vector<std::uint32_t>& begin, std::vector<std::uint32_t>& latent,
                           std::vector<float>& value) {
    const PairsByRow& pairs = table(CodeSet::main).pairs;
    begin.assign(pairs.begin.begin(), pairs.begin.begin() + rows_ + 1);
    latent.assign(pairs.latent.data(), pairs.latent.data() + pairs.size());
    value.assign(pairs.value.data(), pairs.value.data() + pairs.size());
}

// A counting sort by latent, threads taking consecutive runs of rows, so that the rows of a latent ascend.
void CpuDevice::transpose(CodeTable& codes, std::int64_t width) {
    const PairsByRow& pairs = codes.pairs;
    const auto latents = static_cast<std::size_t>(width);
    const auto total = static_cast<std::size_t>(pairs.size());
    codes.row_of.grow(total);
    codes.value_of.grow(total);
    codes.gradient_of.grow(total);
    codes.latent_begin.resize(latents + 1);
    counts_.assign(static_cast<std::size_t>(threads_) * latents, 0);
    const auto first_row = [&](int t) { return static_cast<std::size_t>(rows_ * t / threads_); };
    // A loop over the runs, not over the threads: the runtime may grant fewer threads than were asked for.
#pragma omp parallel for num_threads(threads_) schedule(static, 1)
    for (int t = 0; t < threads_; ++t) {
        std::uint32_t* own = counts_.data() + static_cast<std::size_t>(t) * latents;
        for (std::uint32_t e = pairs.begin[first_row(t)]; e < pairs.begin[first_row(t + 1)]; ++e)
            ++own[pairs.latent[e]];
    }
    std::uint32_t at = 0;
    for (std::size_t j = 0; j < latents; ++j) {
        codes.latent_begin[j] = at;
        for (int t = 0; t < threads_; ++t) {
            std::uint32_t& slot = counts_[static_cast<std::size_t>(t) * latents + j];
            at += std::exchange(slot, at);
        }
    }
    codes.latent_begin[latents] = at;
#pragma omp parallel for num_threads(threads_) schedule(static, 1)
    for (int t = 0; t < threads_; ++t) {
        std::uint32_t* slot = counts_.data() + static_cast<std::size_t>(t) * latents;
        for (std::size_t b = first_row(t); b < first_row(t + 1); ++b) {
            for (std::uint32_t e = pairs.begin[b]; e < pairs.begin[b + 1]; ++e) {
                const std::uint32_t to = slot[pairs.latent[e]]++;
                codes.row_of[to] = static_cast<std::uint32_t>(b);
                codes.value_of[to] = codes.gradient_scale * pairs.value[e];
                codes.gradient_of[to] = codes.gradient[e];
            }
        }
    }
}

void CpuDevice::fired(std::span<std::uint32_t> bits) {
    std::ranges::fill(bits, 0);
    const PairsByRow& pairs = table(CodeSet::main).pairs;
    for (std::int64_t e = 0; e < pairs.size(); ++e) {
        const std::uint32_t j = pairs.latent[static_cast<std::size_t>(e)];
        bits[j / 32] |= 1U << (j % 32);
    }
}

void CpuDevice::count_codes(std::span<std::uint64_t> counts) {
    const PairsByRow& pairs = table(CodeSet::main).pairs;
    for (std::int64_t e = 0; e < pairs.size(); ++e) ++counts[pairs.latent[static_cast<std::size_t>(e)]];
}

}  // namespace strata::device
