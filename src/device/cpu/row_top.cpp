// The k largest of every row: lists of candidates whose limits rise while the latents go by.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "device/cpu/cpu_device.h"
#include "device/cpu/product.h"

namespace strata::device {

void CpuDevice::screen_row_top(const Tensors& sae, std::int64_t k, std::span<const std::uint32_t> subset) {
    if (!subset.empty()) take_encoders(sae, subset);
    const Tensors& encoders = subset.empty() ? sae : subset_;
    Encoding encoding = start_encoding(sae, encoders, {}, true);
    encoding.timed &= subset.empty();
    const std::int64_t per_block = block_rows((4 * k + block_columns) * 8, encoding.screened);
    const std::int64_t count = (last_row_ - first_row_ + per_block - 1) / per_block;
    if (std::ssize(blocks_) < count) blocks_.resize(static_cast<std::size_t>(count));
    const Rounding rounding = encoding.screened ? Rounding{} : rounding_of(encoders, {});
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (std::int64_t block = 0; block < count; ++block) {
        const std::int64_t first = first_row_ + block * per_block;
        top_block(encoders, k, !mask_.empty() && subset.empty(), block, first,
                  std::min(per_block, last_row_ - first), rounding, encoding.screened);
    }
    collect_candidates(per_block);
    finish_encoding(sae, encoding);
    if (subset.empty()) return;
    for (std::uint32_t& j : std::span(candidates_.latent).first(static_cast<std::size_t>(candidates_.size())))
        j = subset[j];
}

// The encoders of some latents, as those of an SAE.
void CpuDevice::take_encoders(const Tensors& sae, std::span<const std::uint32_t> latents) {
    static_cast<Shape&>(subset_) = {.n = n_, .width = std::ssize(latents), .transcoder = sae.transcoder};
    const auto grow = [this](Memory<float>& memory, std::size_t size) {
        if (memory.size < size) memory = make_memory<float>(*this, std::max(size, 2 * memory.size));
    };
    grow(subset_.w_enc, latents.size() * static_cast<std::size_t>(n_));
    grow(subset_.b_enc, latents.size());
    grow(subset_.b_dec, static_cast<std::size_t>(n_));
    std::copy_n(sae.b_dec.data(), n_, subset_.b_dec.data());
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::size_t i = 0; i < latents.size(); ++i) {
        const std::int64_t j = latents[i];
        std::copy_n(sae.w_enc.data() + j * n_, n_, subset_.w_enc.data() + static_cast<std::int64_t>(i) * n_);
        subset_.b_enc.data()[i] = sae.b_enc.data()[j];
    }
}

namespace {

constexpr std::int64_t first_columns = block_columns / 4;

// The candidates of one row while its columns go by: those that may still be among the k largest, or among
// the k largest of those that are not masked, whose limit is the lower one.
struct RowList {
    std::uint32_t* latent;
    float* value;  // the most that the pre-activation may be
    std::int64_t& used;
    float& limit;       // of all
    float& open_limit;  // of those not masked; the same without a mask
};

// The `k`-th largest of `values`, which it reorders; -infinity if there are fewer.
float largest(std::vector<float>& values, std::int64_t k) {
    if (std::ssize(values) < k) return -std::numeric_limits<float>::infinity();
    std::nth_element(values.begin(), values.begin() + (k - 1), values.end(), std::greater<>());
    return values[static_cast<std::size_t>(k - 1)];
}

// Raises the limits by the values on the list: each pre-activation is at most `width` below its value.
template <typename Width, typename Masked>
void raise_limits(RowList list, std::int64_t k, const Width& width, const Masked& masked, bool with_mask,
                  std::vector<float>& selected) {
    const auto raise = [&](float& limit, const auto& counts) {
        selected.clear();
        for (std::int64_t e = 0; e < list.used; ++e)
            if (counts(list.latent[e])) selected.push_back(list.value[e] - width(list.latent[e]));
        limit = std::max(limit, largest(selected, k));
    };
    raise(list.limit, [](std::uint32_t) { return true; });
    if (with_mask) {
        raise(list.open_limit, [&](std::uint32_t j) { return !masked(j); });
    } else {
        list.open_limit = list.limit;
    }
}

// What is among the k best: above `value`, and the first `ties` that equal it.
struct Cut {
    float value;
    std::int64_t ties;
    bool takes(float v) { return v > value || (v == value && ties-- > 0); }
};

template <typename Wanted>
Cut best_of(RowList list, std::int64_t k, const Wanted& wanted, std::vector<float>& selected) {
    selected.clear();
    for (std::int64_t e = 0; e < list.used; ++e)
        if (wanted(list.latent[e])) selected.push_back(list.value[e]);
    if (std::ssize(selected) <= k) return {0, 0};
    const float value = largest(selected, k);
    return {value,
            k - std::count_if(selected.begin(), selected.begin() + k, [&](float v) { return v > value; })};
}

// Drops what is in neither.
template <typename Masked>
void drop_certain(RowList list, const Masked& masked, bool with_mask) {
    std::int64_t kept = 0;
    for (std::int64_t e = 0; e < list.used; ++e) {
        if (list.value[e] < list.open_limit) continue;
        if (with_mask && list.value[e] < list.limit && masked(list.latent[e])) continue;
        list.latent[kept] = list.latent[e];
        list.value[kept++] = list.value[e];
    }
    list.used = kept;
}

}  // namespace

void CpuDevice::top_block(const Tensors& sae, std::int64_t k, bool with_mask, std::int64_t block,
                          std::int64_t first, std::int64_t count, const Rounding& rounding, bool screened) {
    Scratch& mine = scratch_[static_cast<std::size_t>(omp_get_thread_num())];
    if (mine.product.size() == 0) mine.product.reset(most_block_rows * block_columns);
    const std::int64_t capacity = 4 * k + block_columns;
    ensure(mine.latent, count * capacity);
    ensure(mine.value, count * capacity);
    mine.used.assign(static_cast<std::size_t>(count), 0);
    mine.limit.resize(static_cast<std::size_t>(count));
    mine.open_limit.resize(static_cast<std::size_t>(count));

    const auto slack_of = [&](std::int64_t r) {  // of the float32 product, either way
        return rounding.slack(centered_norm_[static_cast<std::size_t>(first + r)]);
    };
    const auto list_of = [&](std::int64_t r) {
        const auto i = static_cast<std::size_t>(r);
        return RowList{mine.latent.data() + r * capacity, mine.value.data() + r * capacity, mine.used[i],
                       mine.limit[i], mine.open_limit[i]};
    };
    // How far below the value on a list the pre-activation may be.
    const auto width_of = [&](std::int64_t r) {
        return [&, r, limit = list_of(r).limit, either = 2 * slack_of(r)](std::uint32_t j) {
            return screened ? screen_width(screen_, first + r, j, limit) : either;
        };
    };
    const auto masked_in = [&](std::int64_t r) {
        return [this, row = static_cast<std::size_t>(first + r)](std::uint32_t j) { return masked(row, j); };
    };
    for (std::int64_t r = 0; r < count; ++r)
        mine.limit[static_cast<std::size_t>(r)] = mine.open_limit[static_cast<std::size_t>(r)] =
            std::numeric_limits<float>::min();

    // Counts what is new on the list of a row, and raises its limits to what the counts tell.
    mine.ladders.assign(static_cast<std::size_t>(with_mask ? 2 * count : count), {});
    mine.seen.assign(static_cast<std::size_t>(count), 0);
    const auto climb = [&](std::int64_t r) {
        const RowList list = list_of(r);
        std::int64_t& seen = mine.seen[static_cast<std::size_t>(r)];
        if (list.used == seen) return;
        Ladder& all = mine.ladders[static_cast<std::size_t>(r)];
        Ladder* open = with_mask ? &mine.ladders[static_cast<std::size_t>(count + r)] : nullptr;
        if (!all.begun()) {
            const float most = *std::max_element(list.value, list.value + list.used);
            all.begin(most);
            if (with_mask) open->begin(most);
        }
        const auto masked = masked_in(r);
        const auto width = width_of(r);
        for (; seen < list.used; ++seen) {
            const float least = list.value[seen] - width(list.latent[seen]);
            all.add(least, k);
            if (with_mask && !masked(list.latent[seen])) open->add(least, k);
        }
        list.limit = std::max(list.limit, all.edge());
        list.open_limit = with_mask ? std::max(list.open_limit, open->edge()) : list.limit;
    };

    // Of a list whose values are those that count: the k best, ties to the lower latent, and the k best of
    // those not masked. A list ascends by latent, since latents are taken in order, and goes on doing so.
    const auto settle = [&](std::int64_t r) {
        const RowList list = list_of(r);
        const auto masked = masked_in(r);
        std::int64_t positive = 0;
        for (std::int64_t e = 0; e < list.used; ++e) {
            if (!(list.value[e] > 0)) continue;
            list.latent[positive] = list.latent[e];
            list.value[positive++] = list.value[e];
        }
        list.used = positive;
        Cut all = best_of(
            list, k, [](std::uint32_t) { return true; }, mine.selected);
        list.limit = std::max(list.limit, all.value);
        Cut open = all;
        if (with_mask)
            open = best_of(
                list, k, [&](std::uint32_t j) { return !masked(j); }, mine.selected);
        list.open_limit = std::max(list.open_limit, open.value);
        std::int64_t kept = 0;
        for (std::int64_t e = 0; e < list.used; ++e) {
            const bool of_all = all.takes(list.value[e]);
            const bool of_open = with_mask && !masked(list.latent[e]) && open.takes(list.value[e]);
            if (!of_all && !of_open) continue;
            list.latent[kept] = list.latent[e];
            list.value[kept++] = list.value[e];
        }
        list.used = mine.seen[static_cast<std::size_t>(r)] = kept;
    };

    // The values that count, of all lists: latent by latent, so that a latent's weights are read once for all
    // rows.
    PairList& found = mine.found;
    const auto score = [&] {
        std::vector<std::uint32_t>& next = mine.next;
        next.assign(static_cast<std::size_t>(sae.width) + 1, 0);
        for (std::int64_t r = 0; r < count; ++r)
            for (std::int64_t e = 0; e < list_of(r).used; ++e) ++next[list_of(r).latent[e] + 1];
        std::partial_sum(next.begin(), next.end(), next.begin());
        const std::int64_t pairs = next.back();
        found.ensure(pairs);
        ensure(mine.order, pairs);
        for (std::int64_t r = 0; r < count; ++r) {
            const RowList list = list_of(r);
            for (std::int64_t e = 0; e < list.used; ++e) {
                const std::uint32_t at = next[list.latent[e]]++;
                found.row[at] = static_cast<std::uint32_t>(r);
                found.latent[at] = list.latent[e];
                mine.order[at] = static_cast<std::uint32_t>(r * capacity + e);
            }
        }
        kernels_.pair_dots(xc(first), found.row.data(), sae.w_enc.data(), found.latent.data(), pairs, n_,
                           found.value.data());
        for (auto at = std::size_t{0}; at < static_cast<std::size_t>(pairs); ++at)
            mine.value[mine.order[at]] = found.value[at] + sae.b_enc.data()[found.latent[at]];
    };

    // The first blocks are small, as many columns as went before, since all that is positive is listed until
    // limits have risen.
    for (std::int64_t column = 0, columns = 0; column < sae.width; column += columns) {
        columns = std::min(std::clamp(column, first_columns, block_columns), sae.width - column);
        if (screened) {
            const std::int64_t pairs = screen_columns(column, columns, first, count, found);
            for (auto e = std::size_t{0}; e < static_cast<std::size_t>(pairs); ++e) {
                const RowList list = list_of(found.row[e]);
                const std::int64_t b = first + found.row[e];
                const std::uint32_t j = found.latent[e];
                float most = screen_most(screen_, b, j, found.value[e], list.open_limit);
                if (!std::isfinite(most))
                    most = kernels_.dot(xc(b), sae.w_enc.data() + std::int64_t{j} * n_, n_) +
                           sae.b_enc.data()[j];
                list.latent[list.used] = j;
                list.value[list.used++] = most;
            }
        } else {
            multiply('N', 'T', count, columns, n_, 1, xc(first), sae.w_enc.data() + column * n_, 0,
                     mine.product.data());
            for (std::int64_t r = 0; r < count; ++r) {
                const RowList list = list_of(r);
                const std::int64_t before = list.used;
                list.used +=
                    kernels_.scan(mine.product.data() + r * columns, sae.b_enc.data() + column, columns,
                                  list.open_limit - slack_of(r), static_cast<std::uint32_t>(column),
                                  list.latent + before, list.value + before);
                for (std::int64_t e = before; e < list.used; ++e) list.value[e] += slack_of(r);
            }
        }
        for (std::int64_t r = 0; r < count; ++r) {
            const RowList list = list_of(r);
            climb(r);
            if (list.used > 3 * k) drop_certain(list, masked_in(r), with_mask);
            mine.seen[static_cast<std::size_t>(r)] = list.used;
            if (list.used > 4 * k) {  // a crowd of near-equal values; 2 k at most remain
                const RowList list = list_of(r);
                kernels_.dots(xc(first + r), sae.w_enc.data(), list.latent, list.used, n_, list.value);
                for (std::int64_t e = 0; e < list.used; ++e)
                    list.value[e] += sae.b_enc.data()[list.latent[e]];
                settle(r);
            }
            if (screened) screen_limit(screen_, first + r, list.open_limit);
        }
    }

    for (std::int64_t r = 0; r < count; ++r) {
        raise_limits(list_of(r), k, width_of(r), masked_in(r), with_mask, mine.selected);
        drop_certain(list_of(r), masked_in(r), with_mask);
    }
    score();
    RowBlock& out = blocks_[static_cast<std::size_t>(block)];
    out.count.assign(static_cast<std::size_t>(count) + 1, 0);
    ensure(out.latent, count * (with_mask ? 2 * k : k));
    ensure(out.value, count * (with_mask ? 2 * k : k));
    out.found = 0;
    for (std::int64_t r = 0; r < count; ++r) {
        settle(r);
        const RowList list = list_of(r);
        std::copy_n(list.latent, list.used, out.latent.begin() + out.found);
        std::copy_n(list.value, list.used, out.value.begin() + out.found);
        out.found += list.used;
        out.count[static_cast<std::size_t>(r) + 1] = static_cast<std::uint32_t>(out.found);
    }
}

}  // namespace strata::device
