// From candidates to codes: counting by digit, capping, keeping, and the transposed index by latent.

#include <omp.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "base/error.h"
#include "device/cpu/cpu_device.h"

namespace strata::device {

Selection CpuDevice::select_largest(Communicator& comm, DeviceSums*, std::uint64_t k, bool masked) {
    return strata::select_largest(
        comm, k, [&](std::uint32_t prefix, int shift, int digits, std::span<std::uint64_t> counts) {
            count_digits(masked, prefix, shift, digits, counts);
        });
}

// A DigitHistogram of the candidates.
void CpuDevice::count_digits(bool with_mask, std::uint32_t prefix, int shift, int digits,
                             std::span<std::uint64_t> counts) {
    const std::uint32_t mask = (1U << digits) - 1;
    std::ranges::fill(counts, 0);
#pragma omp parallel num_threads(threads_)
    {
        std::vector<std::uint64_t> own(counts.size(), 0);
#pragma omp for schedule(static)
        for (std::int64_t b = 0; b < rows_; ++b) {
            const auto r = static_cast<std::size_t>(b);
            for (std::uint32_t e = candidates_.begin[r]; e < candidates_.begin[r + 1]; ++e) {
                const auto bits = std::bit_cast<std::uint32_t>(candidates_.value[e]);
                if ((bits >> shift >> digits) == prefix && !(with_mask && masked(r, candidates_.latent[e])))
                    ++own[(bits >> shift) & mask];
            }
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

GateView CpuDevice::view_of(const Gate& gate, const Tensors& sae) {
    const auto data = [](std::span<const float> of) { return of.empty() ? nullptr : of.data(); };
    return {data(gate.threshold), data(gate.gain), data(gate.offset), data(gate.penalty),
            sae.b_enc.data(),     gate.window,     gate.frozen,       gate.observe};
}

// `passes(row, entry)` must be the same each time it is asked; value(entry) is the code.
template <typename Passes, typename Value>
void CpuDevice::keep_if(CodeSet set, const PairsByRow& from, const Passes& passes, const Value& value) {
    PairsByRow& out = table(set).pairs;
    out.begin.assign(static_cast<std::size_t>(last_row_) + 1, 0);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t b = first_row_; b < last_row_; ++b) {
        const auto r = static_cast<std::size_t>(b);
        std::uint32_t count = 0;
        for (std::uint32_t e = from.begin[r]; e < from.begin[r + 1]; ++e) count += passes(r, e);
        out.begin[r + 1] = count;
    }
    std::partial_sum(out.begin.begin(), out.begin.end(), out.begin.begin());
    const std::size_t total = out.begin.back();
    for (auto* a : {&out.value, &table(set).gradient}) a->grow(total);
    out.latent.grow(total);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t b = first_row_; b < last_row_; ++b) {
        const auto r = static_cast<std::size_t>(b);
        std::uint32_t at = out.begin[r];
        for (std::uint32_t e = from.begin[r]; e < from.begin[r + 1]; ++e) {
            if (!passes(r, e)) continue;
            out.latent[at] = from.latent[e];
            out.value[at++] = value(e);
        }
    }
}

void CpuDevice::keep(CodeSet set, float threshold, std::uint64_t ties, bool with_mask) {
    const PairsByRow& from = candidates_;
    const auto value = [&](std::uint32_t e) { return from.value[e]; };
    const auto open = [&](std::size_t row, std::uint32_t e) {
        return !(with_mask && masked(row, from.latent[e]));
    };
    if (ties == 0) {
        keep_if(
            set, from,
            [&](std::size_t r, std::uint32_t e) { return from.value[e] > threshold && open(r, e); }, value);
        return;
    }
    // The entry after the last tie that is taken; entries are in order of (row, latent).
    std::uint32_t after = 0;
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows_) && ties > 0; ++r)
        for (std::uint32_t e = from.begin[r]; e < from.begin[r + 1] && ties > 0; ++e) {
            ties -= from.value[e] == threshold && open(r, e);
            after = e + 1;
        }
    keep_if(
        set, from,
        [&](std::size_t r, std::uint32_t e) {
            return (from.value[e] > threshold || (e < after && from.value[e] == threshold)) && open(r, e);
        },
        value);
}

void CpuDevice::keep_row_top(CodeSet set, std::int64_t k, bool with_mask) {
    const PairsByRow& from = candidates_;
    taken_.assign(static_cast<std::size_t>(from.size()), 0);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t b = 0; b < rows_; ++b) {
        const auto r = static_cast<std::size_t>(b);
        std::vector<std::uint32_t>& order = scratch_[static_cast<std::size_t>(omp_get_thread_num())].order;
        order.clear();
        for (std::uint32_t e = from.begin[r]; e < from.begin[r + 1]; ++e)
            if (!(with_mask && masked(r, from.latent[e]))) order.push_back(e);
        if (std::ssize(order) > k) {
            std::nth_element(
                order.begin(), order.begin() + (k - 1), order.end(), [&](std::uint32_t a, std::uint32_t c) {
                    return from.value[a] != from.value[c] ? from.value[a] > from.value[c] : a < c;
                });
            order.resize(static_cast<std::size_t>(k));
        }
        for (const std::uint32_t e : order) taken_[e] = 1;
    }
    keep_if(
        set, from, [&](std::size_t, std::uint32_t e) { return taken_[e] != 0; },
        [&](std::uint32_t e) { return from.value[e]; });
}

void CpuDevice::keep_gate(const Gate& gate, const Tensors& sae, bool with_mask) {
    const PairsByRow& from = candidates_;
    const GateView view = view_of(gate, sae);
    const auto keep_by = [&](CodeSet set, bool open_only) {
        keep_if(
            set, from,
            [&](std::size_t r, std::uint32_t e) {
                return view.takes(set, from.latent[e], from.value[e]) &&
                       !(open_only && masked(r, from.latent[e]));
            },
            [&](std::uint32_t e) { return view.value(set, from.latent[e], from.value[e]); });
    };
    if (with_mask) keep_by(CodeSet::observed, false);
    keep_by(CodeSet::main, with_mask);
    if (gate.frozen) keep_by(CodeSet::gate, with_mask);
    if (gate.window > 0) keep_by(CodeSet::window, with_mask);
}

void CpuDevice::keep_unmasked(CodeSet from, CodeSet set) {
    const PairsByRow& pairs = table(from).pairs;
    keep_if(
        set, pairs, [&](std::size_t r, std::uint32_t e) { return !masked(r, pairs.latent[e]); },
        [&](std::uint32_t e) { return pairs.value[e]; });
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
    ByLatent& out = codes.by_latent;
    out.grow(total);
    out.begin.resize(latents + 1);
    counts_.assign(static_cast<std::size_t>(threads_) * latents, 0);
    const auto first_row = [&](int t) {
        return static_cast<std::size_t>(first_row_ + (last_row_ - first_row_) * t / threads_);
    };
    // A loop over the runs, not over the threads: the runtime may grant fewer threads than were asked for.
#pragma omp parallel for num_threads(threads_) schedule(static, 1)
    for (int t = 0; t < threads_; ++t) {
        std::uint32_t* own = counts_.data() + static_cast<std::size_t>(t) * latents;
        for (std::uint32_t e = pairs.begin[first_row(t)]; e < pairs.begin[first_row(t + 1)]; ++e)
            ++own[pairs.latent[e]];
    }
    std::uint32_t at = 0;
    for (std::size_t j = 0; j < latents; ++j) {
        out.begin[j] = at;
        for (int t = 0; t < threads_; ++t) {
            std::uint32_t& slot = counts_[static_cast<std::size_t>(t) * latents + j];
            at += std::exchange(slot, at);
        }
    }
    out.begin[latents] = at;
#pragma omp parallel for num_threads(threads_) schedule(static, 1)
    for (int t = 0; t < threads_; ++t) {
        std::uint32_t* slot = counts_.data() + static_cast<std::size_t>(t) * latents;
        for (std::size_t b = first_row(t); b < first_row(t + 1); ++b) {
            for (std::uint32_t e = pairs.begin[b]; e < pairs.begin[b + 1]; ++e) {
                const std::uint32_t to = slot[pairs.latent[e]]++;
                out.row[to] = static_cast<std::uint32_t>(b);
                out.value[to] = codes.gradient_scale * pairs.value[e];
                out.gradient[to] = codes.gradient[e];
            }
        }
    }
}

void CpuDevice::fired(CodeSet set, std::span<std::uint32_t> bits) {
    std::ranges::fill(bits, 0);
    const PairsByRow& pairs = table(set).pairs;
    for (std::int64_t e = 0; e < pairs.size(); ++e) {
        const std::uint32_t j = pairs.latent[static_cast<std::size_t>(e)];
        bits[j / 32] |= 1U << (j % 32);
    }
}

void CpuDevice::count_codes(std::span<std::uint64_t> counts) {
    const PairsByRow& pairs = table(CodeSet::main).pairs;
    for (std::int64_t e = 0; e < pairs.size(); ++e) ++counts[pairs.latent[static_cast<std::size_t>(e)]];
}

void CpuDevice::latent_sums(CodeSet set, LatentSums& sums, std::int64_t width) {
    CodeTable& codes = table(set);
    codes.gradient_scale = 1;
    transpose(codes, width);
    if (first_row_ == 0) sums.reset(width);
    sum_by_latent(codes.by_latent, codes.gradient_scale, sums);
}

// `scale`: of the values.
void CpuDevice::sum_by_latent(const ByLatent& codes, float scale, LatentSums& sums) const {
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t j = 0; j < std::ssize(sums.count); ++j) {
        const auto latent = static_cast<std::size_t>(j);
        double value = 0, gradient = 0, both = 0;
        for (std::uint32_t e = codes.begin[latent]; e < codes.begin[latent + 1]; ++e) {
            value += codes.value[e];
            gradient += codes.gradient[e];
            both += static_cast<double>(codes.value[e]) * codes.gradient[e];
        }
        sums.count[latent] += codes.begin[latent + 1] - codes.begin[latent];
        sums.value[latent] += value / scale;
        sums.gradient[latent] += gradient;
        sums.value_gradient[latent] += both / scale;
    }
}

}  // namespace strata::device
