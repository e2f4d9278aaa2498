#pragma once
// The training rows that statistics are made of, the same at any number of ranks.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "data/convert.h"
#include "data/dataset.h"
#include "data/order.h"

namespace strata::data {

inline constexpr std::int64_t samples_per_run = 32;  // few reads for many rows, and still thousands of places
inline constexpr std::int64_t sample_shares = 64;    // partial sums, whatever the number of ranks

// The sampled rows as runs: the dataset is cut into as many equal strata as there are runs, and a run lies
// anywhere in its stratum, so that the samples do not keep step with the contexts of the model.
class Sample {
  public:
    Sample(std::int64_t rows, std::int64_t most)
        : rows_(rows),
          samples_(std::min(rows, most)),
          runs_((samples_ + samples_per_run - 1) / samples_per_run) {}

    std::int64_t samples() const { return samples_; }

    // The number of the first sample of a run.
    std::int64_t first_sample(std::int64_t run) const { return run * samples_ / runs_; }

    Run run(std::int64_t k) const {
        const std::int64_t begin = k * rows_ / runs_, end = (k + 1) * rows_ / runs_;
        const std::int64_t count = first_sample(k + 1) - first_sample(k);
        Random random(0, Purpose::row_order, static_cast<std::uint64_t>(k));
        return {begin + static_cast<std::int64_t>(static_cast<double>(random.uniform()) *
                                                  static_cast<double>(end - begin - count + 1)),
                count};
    }

    // The samples of a share are [first_of_share(share), first_of_share(share + 1)).
    std::int64_t first_of_share(std::int64_t share) const {
        return first_sample(share * runs_ / sample_shares);
    }

    // Shares [first_share(rank), first_share(rank + 1)) are those of a rank.
    static std::int64_t first_share(int rank, int ranks) { return rank * sample_shares / ranks; }

    // Calls action(sample, row of the dataset, raw row, its type).
    template <class Action>
    void visit_share(const Dataset& dataset, Reader& reader, std::int64_t share, const Action& action) const {
        std::vector<std::byte> raw;
        for (std::int64_t k = share * runs_ / sample_shares; k < (share + 1) * runs_ / sample_shares; ++k) {
            const Run sampled = run(k);
            for (std::int64_t done = 0; done < sampled.rows;) {
                const std::int64_t first = sampled.first + done;
                const FilePart& part = part_of(dataset, first);
                const std::int64_t count = std::min(sampled.rows - done, part.first + part.rows - first);
                const std::size_t row_bytes = static_cast<std::size_t>(dataset.n) * size_of(part.type);
                raw.resize(static_cast<std::size_t>(count) * row_bytes);
                reader.read_raw(first, count, raw);
                for (std::int64_t i = 0; i < count; ++i)
                    action(first_sample(k) + done + i, first + i,
                           std::span<const std::byte>(raw).subspan(static_cast<std::size_t>(i) * row_bytes,
                                                                   row_bytes),
                           part.type);
                done += count;
            }
        }
    }

    // Calls action(share, sample, row of the dataset, raw row, its type) for the shares of one rank.
    template <class Action>
    void visit(const Dataset& dataset, Reader& reader, int rank, int ranks, const Action& action) const {
        for (std::int64_t share = first_share(rank, ranks); share < first_share(rank + 1, ranks); ++share)
            visit_share(dataset, reader, share,
                        [&](std::int64_t sample, std::int64_t row, std::span<const std::byte> raw,
                            Type type) { action(share, sample, row, raw, type); });
    }

  private:
    std::int64_t rows_, samples_, runs_;
};

}  // namespace strata::data
