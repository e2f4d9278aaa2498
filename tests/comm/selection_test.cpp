// The k largest of a distributed batch against sorting all values in one place. Run at 1, 2, 3 and 4 ranks.

#include "comm/selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <vector>

#include "base/random.h"
#include "comm/mpi.h"
#include "comm/self.h"

namespace strata {
namespace {

using Values = std::vector<float>;

// Every rank knows all ranks' values; `of(r)` are those of rank r.
void check(Communicator& comm, const std::vector<Values>& of, std::uint64_t k) {
    const Values& mine = of[static_cast<std::size_t>(comm.rank())];
    const Selection found = select_largest(
        comm, k, [&](std::uint32_t prefix, int shift, int digits, std::span<std::uint64_t> counts) {
            ASSERT_EQ(counts.size(), std::size_t{1} << digits);
            std::ranges::fill(counts, 0);
            for (const float v : mine) {
                const auto bits = std::bit_cast<std::uint32_t>(v);
                if (bits >> shift >> digits == prefix) ++counts[(bits >> shift) & (counts.size() - 1)];
            }
        });

    // (value, rank, place), by value from the largest, then by rank and place.
    struct Entry {
        float value;
        std::size_t rank;
    };
    std::vector<Entry> all;
    for (std::size_t r = 0; r < of.size(); ++r)
        for (const float v : of[r]) all.push_back({v, r});
    EXPECT_EQ(found.available, all.size());
    std::ranges::stable_sort(all, std::greater<>(), &Entry::value);
    const std::size_t take = std::min<std::size_t>(k, all.size());
    std::size_t expected = 0;  // of this rank
    for (std::size_t i = 0; i < take; ++i) expected += all[i].rank == static_cast<std::size_t>(comm.rank());
    const auto above =
        static_cast<std::size_t>(std::ranges::count_if(mine, [&](float v) { return v > found.threshold; }));
    const auto equal = static_cast<std::size_t>(std::ranges::count(mine, found.threshold));
    EXPECT_LE(found.ties_to_take, equal);
    if (all.size() < k) {
        EXPECT_EQ(found.threshold, 0);
        EXPECT_EQ(found.ties_to_take, 0U);
        EXPECT_EQ(above, mine.size());
        return;
    }
    EXPECT_EQ(above + found.ties_to_take, expected) << "k " << k << " of " << all.size();
    if (k == 0) return;
    EXPECT_EQ(found.threshold, all[k - 1].value) << "k " << k << " of " << all.size();
}

class Selecting : public testing::TestWithParam<bool> {
  protected:
    const std::unique_ptr<Communicator> comm =
        GetParam() ? make_mpi_communicator() : make_self_communicator();
    const std::size_t ranks = static_cast<std::size_t>(comm->size());
};

INSTANTIATE_TEST_SUITE_P(Over, Selecting, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Mpi" : "Self"; });

TEST_P(Selecting, RandomValues) {
    std::vector<Values> of(ranks);
    for (std::size_t r = 0; r < ranks; ++r) {
        Random random(1, Purpose::synthetic, r);
        for (std::size_t i = 0; i < 500 + 77 * r; ++i) of[r].push_back(std::abs(random.normal()));
    }
    for (const std::uint64_t k : {0, 1, 2, 100, 499, 500, 501, 5000}) check(*comm, of, k);
}

TEST_P(Selecting, NeighboursInTheLastBit) {
    std::vector<Values> of(ranks);
    for (std::size_t r = 0; r < ranks; ++r)
        for (std::uint32_t i = 0; i < 300; ++i)
            of[r].push_back(
                std::bit_cast<float>(0x3f800000U + (i * 7 + static_cast<std::uint32_t>(r)) % 1500));
    for (const std::uint64_t k : {1, 7, 150, 299, 300}) check(*comm, of, k);
}

TEST_P(Selecting, TiesSpreadOverRanks) {
    std::vector<Values> of(ranks);
    for (std::size_t r = 0; r < ranks; ++r) {
        Random random(2, Purpose::synthetic, r);
        for (std::size_t i = 0; i < 200; ++i)
            of[r].push_back(0.25F * static_cast<float>(1 + random.below(8)));
    }
    for (std::uint64_t k = 0; k <= 200 * ranks + 3; k += 13) check(*comm, of, k);
}

TEST_P(Selecting, AllValuesEqual) {
    const std::vector<Values> of(ranks, Values(11, 3.5F));
    for (std::uint64_t k = 0; k <= 11 * ranks + 2; ++k) check(*comm, of, k);
}

TEST_P(Selecting, SomeRanksHaveNothing) {
    std::vector<Values> of(ranks);
    for (std::size_t i = 0; i < 20; ++i) of[ranks / 2].push_back(static_cast<float>(i + 1));
    for (const std::uint64_t k : {0, 1, 19, 20, 21}) check(*comm, of, k);
}

TEST_P(Selecting, NothingAnywhere) {
    for (const std::uint64_t k : {0, 1, 5}) check(*comm, std::vector<Values>(ranks), k);
}

TEST_P(Selecting, TheWholeRangeOfFloats) {
    using Limits = std::numeric_limits<float>;
    const std::vector<Values> of(ranks, {Limits::max(), Limits::min(), Limits::denorm_min(), 1,
                                         Limits::denorm_min(), Limits::max(), 1e-20F, 1e20F});
    for (std::uint64_t k = 1; k <= 8 * ranks; ++k) check(*comm, of, k);
}

// The same values in the same global order select the same, wherever the cuts between ranks fall.
TEST(Selection, DoesNotDependOnTheNumberOfRanks) {
    const auto comm = make_mpi_communicator();
    const auto self = make_self_communicator();
    Random random(5, Purpose::synthetic);
    Values all(1000);
    for (float& v : all) v = 0.125F * static_cast<float>(1 + random.below(40));
    const auto size = static_cast<std::size_t>(comm->size());
    const auto rank = static_cast<std::size_t>(comm->rank());
    const std::size_t first = 1000 * rank / size;
    const std::size_t last = 1000 * (rank + 1) / size;
    const auto histogram_of = [](std::span<const float> values) {
        return [values](std::uint32_t prefix, int shift, int digits, std::span<std::uint64_t> counts) {
            std::ranges::fill(counts, 0);
            for (const float v : values) {
                const auto bits = std::bit_cast<std::uint32_t>(v);
                if (bits >> shift >> digits == prefix) ++counts[(bits >> shift) & (counts.size() - 1)];
            }
        };
    };
    const auto taken = [](std::span<const float> values, const Selection& s) {
        std::vector<char> mask;
        std::uint64_t ties = s.ties_to_take;
        for (const float v : values)
            mask.push_back(v > s.threshold || (v == s.threshold && ties > 0 && ties-- > 0));
        return mask;
    };
    for (const std::uint64_t k : {1, 33, 500, 777, 1000}) {
        const std::span mine = std::span<const float>(all).subspan(first, last - first);
        const std::vector<char> here = taken(mine, select_largest(*comm, k, histogram_of(mine)));
        const std::vector<char> alone = taken(all, select_largest(*self, k, histogram_of(all)));
        EXPECT_TRUE(std::ranges::equal(here, std::span(alone).subspan(first, last - first))) << k;
        EXPECT_EQ(static_cast<std::uint64_t>(std::ranges::count(alone, 1)), k);
    }
}

}  // namespace
}  // namespace strata
