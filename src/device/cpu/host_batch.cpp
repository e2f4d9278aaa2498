#include "device/cpu/host_batch.h"

#include "base/error.h"

namespace strata::device {
namespace {

// What a rank tells of itself, in this order: its first row, the end of its rows, whether they are its last,
// and how many codes its sets have.
constexpr std::size_t first_row = 0, end_row = 1, at_end = 2, set_codes = 3, told = 6;

// Codes of one rank and set in shared memory.
struct SharedCodes {
    std::uint32_t *begin, *row;
    float *value, *gradient;
};

// Hands out memory behind `base`, or only counts it where that is null; cache lines are not shared.
struct Carver {
    std::byte* base;
    std::size_t used = 0;

    template <typename T>
    T* take(std::size_t count) {
        std::byte* at = base == nullptr ? nullptr : base + used;
        used += (count * sizeof(T) + 63) / 64 * 64;
        return reinterpret_cast<T*>(at);
    }
};

// Rows [rows.first, rows.last) of a rank's tiles to where its rows begin. Tiles of fewer rows are wider.
void copy_rows(const TileView& from, Slice rows, const TileView& to, std::int64_t begin, int threads) {
    const std::int64_t width = std::min(from.width, to.width);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t b = rows.first; b < rows.last; ++b)
        for (std::int64_t c = 0; c < from.n; c += width)
            std::copy_n(from.at(c / from.width, b) + c % from.width, width,
                        to.at(c / to.width, begin + b - rows.first) + c % to.width);
}

void copy_codes(const ByLatent& from, const SharedCodes& to) {
    std::ranges::copy(from.begin, to.begin);
    std::copy_n(from.row.data(), from.size(), to.row);
    std::copy_n(from.value.data(), from.size(), to.value);
    std::copy_n(from.gradient.data(), from.size(), to.gradient);
}

// Of the latents `mine` the codes of all ranks, rank after rank. `shift` makes a rank's row numbers those of
// the host's batch.
void merge_codes(std::span<const SharedCodes> ranks, std::span<const std::int64_t> shift, Slice mine,
                 std::size_t width, ByLatent& out, int threads) {
    out.begin.assign(width + 1, 0);
    std::uint32_t total = 0;
    for (std::int64_t j = mine.first; j < mine.last; ++j) {
        for (const SharedCodes& rank : ranks) total += rank.begin[j + 1] - rank.begin[j];
        out.begin[static_cast<std::size_t>(j) + 1] = total;
    }
    std::fill(out.begin.begin() + mine.last, out.begin.end(), total);
    out.grow(total);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t j = mine.first; j < mine.last; ++j) {
        std::uint32_t at = out.begin[static_cast<std::size_t>(j)];
        for (std::size_t r = 0; r < ranks.size(); ++r)
            for (std::uint32_t e = ranks[r].begin[j]; e < ranks[r].begin[j + 1]; ++e, ++at) {
                out.row[at] = static_cast<std::uint32_t>(ranks[r].row[e] + shift[r]);
                out.value[at] = ranks[r].value[e];
                out.gradient[at] = ranks[r].gradient[e];
            }
    }
}

// So many bytes that all ranks see, grown by doubling. Collective.
std::byte* memory_for(HostBatch& host, Communicator& group, std::size_t bytes) {
    const std::size_t room = host.memory.of_rank.empty() ? 0 : host.memory.of_rank.front().size();
    if (bytes > room) {
        host.memory = {};
        std::optional<SharedMemory> larger = group.share(group.rank() == 0 ? std::max(bytes, 2 * room) : 0);
        if (!larger) fail("out of memory: {} bytes to be shared by the ranks of a host", bytes);
        host.memory = *std::move(larger);
    }
    return host.memory.of_rank.front().data();
}

}  // namespace

HostRows gather_batch(HostBatch& host, Communicator& group, const Tiles& centered,
                      std::span<const RankCodes> sets, Slice rows, Slice mine, bool last, int threads) {
    const auto ranks = static_cast<std::size_t>(group.size());
    const auto rank = static_cast<std::size_t>(group.rank());
    const std::size_t width = sets.front().codes->begin.size() - 1;
    std::array<std::uint64_t, told> own = {static_cast<std::uint64_t>(rows.first),
                                           static_cast<std::uint64_t>(rows.last), last ? 1U : 0U};
    for (std::size_t s = 0; s < sets.size(); ++s) own[set_codes + s] = sets[s].codes->size();
    std::vector<std::uint64_t> all(told * ranks);
    group.gather(own, all);
    const auto of = [&](std::size_t r, std::size_t what) { return all[told * r + what]; };

    HostRows found{.first = true, .last = true};
    std::vector<std::int64_t> shift(ranks);
    std::int64_t total = 0;
    for (std::size_t r = 0; r < ranks; ++r) {
        shift[r] = total - static_cast<std::int64_t>(of(r, first_row));
        total += static_cast<std::int64_t>(of(r, end_row) - of(r, first_row));
        found.first = found.first && of(r, first_row) == 0;
        found.last = found.last && of(r, at_end) != 0;
    }

    std::array<std::vector<SharedCodes>, 3> codes;
    const auto lay_out = [&](std::byte* base) {
        Carver carver{base};
        const auto tiles = [&] {
            TileView view = TileView::of_shape(total, centered.n);
            view.data = carver.take<float>(view.size());
            return view;
        };
        host.centered = tiles();
        for (std::size_t s = 0; s < sets.size(); ++s) {
            host.sets[s].residual.clear();
            for (std::size_t g = 0; g < sets[s].residual.size(); ++g)
                host.sets[s].residual.push_back(tiles());
            codes[s].clear();
            for (std::size_t r = 0; r < ranks; ++r) {
                const std::size_t count = of(r, set_codes + s);
                codes[s].push_back({carver.take<std::uint32_t>(width + 1), carver.take<std::uint32_t>(count),
                                    carver.take<float>(count), carver.take<float>(count)});
            }
        }
        return carver.used;
    };
    lay_out(memory_for(host, group, lay_out(nullptr)));

    const std::int64_t begin = shift[rank] + rows.first;
    copy_rows(centered, rows, host.centered, begin, threads);
    for (std::size_t s = 0; s < sets.size(); ++s) {
        for (std::size_t g = 0; g < sets[s].residual.size(); ++g)
            copy_rows(sets[s].residual[g], rows, host.sets[s].residual[g], begin, threads);
        copy_codes(*sets[s].codes, codes[s][rank]);
    }
    group.barrier();
    for (std::size_t s = 0; s < sets.size(); ++s)
        merge_codes(codes[s], shift, mine, width, host.sets[s].codes, threads);
    return found;
}

}  // namespace strata::device
