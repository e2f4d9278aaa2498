// Collectives against plain computations. Run at 1, 2, 3 and 4 ranks.

#include "comm/communicator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "comm/mpi.h"
#include "comm/self.h"

namespace strata {
namespace {

// Small integers, so that sums are exact in any order.
template <typename T>
T element(int rank, std::size_t i) {
    return static_cast<T>((i * 7 + static_cast<std::size_t>(rank) * 13) % 101);
}

constexpr std::size_t piece = std::size_t{4} << 20;  // bytes that one call of MPI moves

class Collectives : public testing::TestWithParam<bool> {
  protected:
    const std::unique_ptr<Communicator> comm =
        GetParam() ? make_mpi_communicator() : make_self_communicator();
};

INSTANTIATE_TEST_SUITE_P(Over, Collectives, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Mpi" : "Self"; });

TEST_P(Collectives, RanksAreNumbered) {
    EXPECT_GE(comm->rank(), 0);
    EXPECT_LT(comm->rank(), comm->size());
    EXPECT_GE(comm->ranks_on_node(), 1);
    EXPECT_LE(comm->ranks_on_node(), comm->size());
}

template <typename T>
void check_sum(Communicator& comm) {
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{1000}, piece / sizeof(T) - 1,
                                   piece / sizeof(T), piece / sizeof(T) + 1, 2 * piece / sizeof(T) + 5}) {
        std::vector<T> values(size);
        for (std::size_t i = 0; i < size; ++i) values[i] = element<T>(comm.rank(), i);
        comm.sum(std::span(values));
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < size; ++i) {
            T expected = 0;
            for (int r = 0; r < comm.size(); ++r) expected += element<T>(r, i);
            wrong += values[i] != expected;
        }
        EXPECT_EQ(wrong, 0U) << size;
    }
}

TEST_P(Collectives, SumAddsFloats) {
    check_sum<float>(*comm);
}
TEST_P(Collectives, SumAddsDoubles) {
    check_sum<double>(*comm);
}
TEST_P(Collectives, SumAddsCounts) {
    check_sum<std::uint64_t>(*comm);
}

TEST_P(Collectives, SumHoldsCountsBeyondTheFloats) {
    std::vector<std::uint64_t> one = {(std::uint64_t{1} << 60) + 1};
    comm->sum(std::span(one));
    EXPECT_EQ(one[0], static_cast<std::uint64_t>(comm->size()) * ((std::uint64_t{1} << 60) + 1));
}

// Roundings depend on the order of summation; ranks must not disagree about it.
TEST_P(Collectives, SumHasTheSameBitsOnAllRanks) {
    std::vector<float> values(3001);
    for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = std::sin(static_cast<float>(i) + 100.0F * static_cast<float>(comm->rank()));
    comm->sum(std::span(values));
    std::uint64_t hash = 0;
    for (const float v : values) hash = hash * 31 + std::bit_cast<std::uint32_t>(v);
    std::vector<std::uint64_t> all(static_cast<std::size_t>(comm->size()));
    comm->gather({&hash, 1}, all);
    for (const std::uint64_t other : all) EXPECT_EQ(other, hash);
}

TEST_P(Collectives, MaxTakesTheLargest) {
    std::vector<double> values = {static_cast<double>(comm->rank()), -static_cast<double>(comm->rank()), -5,
                                  1e300};
    comm->max(values);
    EXPECT_EQ(values, (std::vector<double>{static_cast<double>(comm->size() - 1), 0, -5, 1e300}));
    comm->max({});
}

TEST_P(Collectives, AnyJoinsBits) {
    std::vector<std::uint32_t> bits = {1U << comm->rank(), 0, 0x80000000U};
    comm->any(bits);
    EXPECT_EQ(bits, (std::vector<std::uint32_t>{(1U << comm->size()) - 1, 0, 0x80000000U}));
    comm->any({});
}

TEST_P(Collectives, GatherPutsRanksInOrder) {
    for (const std::size_t each : {0, 1, 3}) {
        std::vector<std::uint64_t> mine(each), all(each * static_cast<std::size_t>(comm->size()), 99);
        for (std::size_t i = 0; i < each; ++i) mine[i] = static_cast<std::uint64_t>(comm->rank()) * 10 + i;
        comm->gather(mine, all);
        for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], i / each * 10 + i % each);
    }
}

TEST_P(Collectives, BroadcastCopiesTheRootsBytes) {
    for (int root = 0; root < comm->size(); ++root) {
        std::vector<std::byte> bytes(1001, static_cast<std::byte>(comm->rank() + 1));
        comm->broadcast(bytes, root);
        for (const std::byte b : bytes) ASSERT_EQ(b, static_cast<std::byte>(root + 1));
        comm->broadcast({}, root);
    }
    comm->barrier();
}

// Messages on one must not be taken for messages on the other.
TEST_P(Collectives, ADuplicateIsIndependent) {
    const std::unique_ptr<Communicator> copy = comm->duplicate();
    EXPECT_EQ(copy->rank(), comm->rank());
    EXPECT_EQ(copy->size(), comm->size());
    std::vector<std::uint64_t> one = {1}, two = {10};
    copy->sum(std::span(two));
    comm->sum(std::span(one));
    EXPECT_EQ(one[0], static_cast<std::uint64_t>(comm->size()));
    EXPECT_EQ(two[0], 10 * static_cast<std::uint64_t>(comm->size()));
}

TEST_P(Collectives, MessagesComeWholeAndInTheOrderSent) {
    const std::unique_ptr<Communicator> mail = comm->duplicate();
    const int to = (mail->rank() + 1) % mail->size(), from = (mail->rank() + mail->size() - 1) % mail->size();
    for (std::size_t i = 0; i < 50; ++i) {
        std::vector<std::byte> text(i * i * 40, static_cast<std::byte>(i));  // short and long ones
        mail->post(text, to);
        std::ranges::fill(text, std::byte{255});  // the message is a copy
    }
    for (std::size_t i = 0; i < 50; ++i) {
        std::optional<Message> message;
        while (!message) message = mail->poll();
        EXPECT_EQ(message->from, from);
        EXPECT_EQ(message->bytes, std::vector<std::byte>(i * i * 40, static_cast<std::byte>(i)));
    }
    EXPECT_FALSE(mail->poll());
    mail->long_barrier();
}

TEST_P(Collectives, NobodyLeavesALongBarrierBeforeAllHaveCome) {
    const std::unique_ptr<Communicator> mail = comm->duplicate();
    std::size_t heard = 0;
    for (int to = 0; to < mail->size(); ++to) mail->post({}, to);
    mail->long_barrier();
    while (heard < static_cast<std::size_t>(mail->size())) heard += mail->poll() ? 1 : 0;
    mail->long_barrier();
    EXPECT_FALSE(mail->poll());
}

}  // namespace
}  // namespace strata
