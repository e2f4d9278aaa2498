// Memory that ranks share, and the communicators of parts of them. Run at 1, 2, 3 and 4 ranks.

#include "comm/shared_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/memory.h"
#include "comm/mpi.h"
#include "comm/self.h"

namespace strata {
namespace {

using Sizes = std::vector<std::size_t>;

std::byte written_by(int rank, std::size_t i) {
    return static_cast<std::byte>((i * 7 + static_cast<std::size_t>(rank) * 31 + i / 4096) % 251 + 1);
}

std::size_t descriptors() {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

// Anonymous files of ours that this process has mapped.
std::size_t mappings() {
    std::ifstream maps("/proc/self/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) count += line.find("memfd:strata") != std::string::npos;
    return count;
}

class Shared : public testing::TestWithParam<bool> {
  protected:
    const std::unique_ptr<Communicator> comm =
        GetParam() ? make_mpi_communicator() : make_self_communicator();
    const std::size_t ranks = static_cast<std::size_t>(comm->size());
    const auto& of(const SharedMemory& memory, int rank) const {
        return memory.of_rank[static_cast<std::size_t>(rank)];
    }

    // Every rank writes all of its part, then some of its neighbour's; all see both.
    void check(const SharedMemory& memory, const Sizes& sizes) {
        ASSERT_EQ(memory.of_rank.size(), ranks);
        for (std::size_t r = 0; r < ranks; ++r) {
            const std::span<std::byte> part = memory.of_rank[r];
            ASSERT_EQ(part.size(), sizes[r]);
            if (sizes[r] > 0) {
                EXPECT_EQ(reinterpret_cast<std::uintptr_t>(part.data()) % huge_page, 0U);
            }
            EXPECT_TRUE(std::ranges::all_of(part, [](std::byte b) { return b == std::byte{0}; })) << r;
        }
        comm->barrier();
        const std::span<std::byte> own = of(memory, comm->rank());
        for (std::size_t i = 0; i < own.size(); ++i) own[i] = written_by(comm->rank(), i);
        comm->barrier();
        for (int r = 0; r < comm->size(); ++r) {
            const std::span<std::byte> part = of(memory, r);
            std::size_t wrong = 0;
            for (std::size_t i = 0; i < part.size(); ++i) wrong += part[i] != written_by(r, i);
            EXPECT_EQ(wrong, 0U) << "of rank " << r << " of " << part.size();
        }
        comm->barrier();
        const int next = (comm->rank() + 1) % comm->size();
        if (!of(memory, next).empty()) of(memory, next).back() = static_cast<std::byte>(comm->rank());
        comm->barrier();
        if (!own.empty()) {
            EXPECT_EQ(own.back(), static_cast<std::byte>((comm->rank() + comm->size() - 1) % comm->size()));
        }
        comm->barrier();
    }
};

INSTANTIATE_TEST_SUITE_P(Over, Shared, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Mpi" : "Self"; });

TEST_P(Shared, IsZeroedAlignedAndSeenByAllRanks) {
    for (const std::size_t size : {std::size_t{1}, std::size_t{64}, std::size_t{4097}, huge_page - 1,
                                   huge_page, huge_page + 5, 3 * huge_page}) {
        const auto memory = comm->share(size);
        ASSERT_TRUE(memory) << size;
        check(*memory, Sizes(ranks, size));
    }
}

TEST_P(Shared, RanksMayAskForDifferentSizesAndForNothing) {
    for (std::size_t first = 0; first < ranks; ++first) {  // who asks for how much goes round
        Sizes sizes(ranks);
        for (std::size_t r = 0; r < ranks; ++r) sizes[(first + r) % ranks] = r * (huge_page / 2 + 3);
        const auto memory = comm->share(sizes[static_cast<std::size_t>(comm->rank())]);
        ASSERT_TRUE(memory);
        check(*memory, sizes);
    }
    const auto nothing = comm->share(0);
    ASSERT_TRUE(nothing);
    check(*nothing, Sizes(ranks, 0));
}

TEST_P(Shared, SurvivesTheCommunicatorAndLivesAsLongAsItsLastCopy) {
    const std::size_t before = mappings();
    std::optional<SharedMemory> memory;
    {
        const std::unique_ptr<Communicator> short_lived = comm->duplicate();
        memory = short_lived->share(10000);
    }
    ASSERT_TRUE(memory);
    const std::shared_ptr<void> owner = memory->owner;
    check(*memory, Sizes(ranks, 10000));
    const std::span<std::byte> part = memory->of_rank.back();
    memory.reset();
    EXPECT_EQ(part.front(), written_by(comm->size() - 1, 0));
    EXPECT_GT(mappings(), before);
}

TEST_P(Shared, ManyTimesLeavesNothingBehind) {
    comm->share(100);  // what MPI keeps after a first use
    const std::size_t open = descriptors(), mapped = mappings();
    for (int i = 0; i < 300; ++i) {
        const auto memory = comm->share(static_cast<std::size_t>(1 + i * 997));
        ASSERT_TRUE(memory) << i;
        EXPECT_EQ(descriptors(), open) << "mapped memory needs no descriptor";
        of(*memory, comm->rank()).front() = std::byte{1};
    }
    EXPECT_EQ(descriptors(), open);
    EXPECT_EQ(mappings(), mapped);
}

// More than there are addresses, and more than a file may have.
TEST_P(Shared, WhereOneRankCannotNoRankGetsAny) {
    const std::size_t open = descriptors(), mapped = mappings();
    for (const std::size_t too_much : {std::size_t{1} << 50, std::size_t{1} << 63})
        for (int culprit = 0; culprit < comm->size(); ++culprit)
            EXPECT_FALSE(comm->share(comm->rank() == culprit ? too_much : 100)) << culprit;
    EXPECT_EQ(descriptors(), open);
    EXPECT_EQ(mappings(), mapped);
}

TEST_P(Shared, APartOfTheRanksSharesAmongItself) {
    const std::unique_ptr<Communicator> part = comm->split(comm->rank() / 2);
    const auto memory = part->share(1000);
    ASSERT_TRUE(memory);
    ASSERT_EQ(std::ssize(memory->of_rank), part->size());
    std::ranges::fill(of(*memory, part->rank()), static_cast<std::byte>(comm->rank() + 1));
    part->barrier();
    for (int r = 0; r < part->size(); ++r)
        for (const std::byte b : of(*memory, r))
            ASSERT_EQ(b, static_cast<std::byte>(comm->rank() / 2 * 2 + r + 1));
    part->barrier();
}

class Parts : public testing::TestWithParam<bool> {
  protected:
    const std::unique_ptr<Communicator> comm =
        GetParam() ? make_mpi_communicator() : make_self_communicator();
};

INSTANTIATE_TEST_SUITE_P(Over, Parts, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Mpi" : "Self"; });

TEST_P(Parts, HoldTheRanksOfAColourInTheirOrder) {
    for (const int parts : {1, 2, 3, 10}) {
        const int color = comm->rank() % parts;
        const std::unique_ptr<Communicator> part = comm->split(color);
        std::vector<std::uint64_t> members(static_cast<std::size_t>(part->size()));
        const auto mine = static_cast<std::uint64_t>(comm->rank());
        part->gather({&mine, 1}, members);
        std::vector<std::uint64_t> expected;
        for (int r = color; r < comm->size(); r += parts) expected.push_back(static_cast<std::uint64_t>(r));
        EXPECT_EQ(members, expected) << parts;
        EXPECT_EQ(members[static_cast<std::size_t>(part->rank())], mine);
        EXPECT_LE(part->ranks_on_node(), part->size());
    }
}

// Messages in one part must not be taken for those of another, or of the whole.
TEST_P(Parts, AreIndependent) {
    const std::unique_ptr<Communicator> part = comm->split(comm->rank() % 2),
                                        alone = comm->split(comm->rank());
    std::vector<double> of_all = {1}, of_part = {10}, of_one = {100};
    part->sum(std::span(of_part));
    comm->sum(std::span(of_all));
    alone->sum(std::span(of_one));
    EXPECT_EQ(of_all[0], comm->size());
    EXPECT_EQ(of_part[0], 10 * part->size());
    EXPECT_EQ(of_one[0], 100);
    EXPECT_EQ(alone->size(), 1);
}

TEST_P(Parts, OfANodeAreTheRanksOnIt) {
    const std::unique_ptr<Communicator> node = comm->on_node();
    EXPECT_EQ(node->size(), comm->ranks_on_node());
    std::vector<std::uint64_t> members(static_cast<std::size_t>(node->size()));
    const auto mine = static_cast<std::uint64_t>(comm->rank());
    node->gather({&mine, 1}, members);
    EXPECT_TRUE(std::ranges::is_sorted(members));
    EXPECT_EQ(members[static_cast<std::size_t>(node->rank())], mine);
}

TEST_P(Parts, MadeManyTimesAreGivenBack) {
    for (int i = 0; i < 3000; ++i) {
        const std::unique_ptr<Communicator> part = comm->split(i % 2), node = comm->on_node();
        ASSERT_EQ(part->size(), comm->size());
    }
}

}  // namespace
}  // namespace strata
