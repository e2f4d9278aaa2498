// Sums of GPU memory over ranks, by NCCL and through host memory. Run at any number of ranks, each with a GPU
// of its own.

#include "device/cuda/cuda_device.h"
#include "support/nccl_sums.h"

namespace strata {
namespace {

using test::values_of;

class NcclSums : public test::NcclSumsTest {};

constexpr std::size_t sizes[] = {1000, 0, 3, 70001, 64, 1};

// Values are on their way to the device when the sum is queued, and are fetched by the same stream
// afterwards.
TEST_F(NcclSums, AreThoseOfAllRanksAndInTheOrderOfTheDevicesWork) {
    const std::unique_ptr<DeviceSums> sums = make();
    for (int round = 0; round < 3; ++round) {
        const std::vector<float> mine = values_of(comm->rank(), round, 71069);
        std::size_t at = 0;
        for (const std::size_t size : sizes) {  // each is uploaded right before its sum
            put({mine.begin() + static_cast<std::ptrdiff_t>(at),
                 mine.begin() + static_cast<std::ptrdiff_t>(at + size)},
                at);
            const std::array<DeviceSums::Part, 2> halves = {
                {{part(at, size / 2)}, {part(at + size / 2, size - size / 2)}}};
            sums->add(halves);
            at += size;
        }
        sums->finish();
        const std::vector<float> found = get(mine.size());
        std::vector<double> expected(mine.size());
        for (int r = 0; r < comm->size(); ++r) {
            const std::vector<float> other = values_of(r, round, mine.size());
            for (std::size_t i = 0; i < other.size(); ++i) expected[i] += other[i];
        }
        double worst = 0;
        for (std::size_t i = 0; i < found.size(); ++i)
            worst = std::max(worst, std::abs(found[i] - expected[i]));
        EXPECT_LT(worst, 1e-6 * comm->size());
        std::vector<double> bits;
        for (const float v : found) bits.push_back(v);
        comm->max(bits);
        for (std::size_t i = 0; i < found.size(); ++i) ASSERT_EQ(bits[i], found[i]);
    }
}

// Of parts with an owner, of no or other lengths: the sums reach their owners alone, and what these then hold
// all ranks. By NCCL and through host memory.
TEST_F(NcclSums, ReachTheirOwnersAndFromThemAllRanks) {
    device::CudaDevice device(comm->rank(), {});
    const std::unique_ptr<DeviceSums> ways[] = {make(), make_staged_sums(*comm, device)};
    for (const auto& sums : ways) {
        std::vector<DeviceSums::Part> parts;
        std::vector<float> mine, summed, spread;
        for (int owner = 0; owner < comm->size(); ++owner) {
            const std::size_t size = owner == 1 ? 0 : 1000 + 77 * static_cast<std::size_t>(owner);
            parts.push_back({part(mine.size(), size), owner});
            for (std::size_t i = 0; i < size; ++i) {  // whole numbers, so that sums of any order are exact
                const int value = static_cast<int>(i) * (comm->rank() + 1);
                const int all = static_cast<int>(i) * comm->size() * (comm->size() + 1) / 2;
                mine.push_back(static_cast<float>(value));
                summed.push_back(static_cast<float>(owner == comm->rank() ? all : value));
                spread.push_back(static_cast<float>(all));
            }
        }
        put(mine);
        work->wait("values");
        sums->add(parts);
        sums->finish();
        EXPECT_EQ(get(mine.size()), summed);
        sums->spread(parts);
        sums->finish();
        EXPECT_EQ(get(mine.size()), spread);
    }
}

// Counts that a kernel, here a copy, has just made, and that the device's work goes on with.
TEST_F(NcclSums, OfCountsAreInTheOrderOfTheDevicesWork) {
    device::CudaDevice device(comm->rank(), {});
    const std::unique_ptr<DeviceSums> ways[] = {
        strata_nccl_backend()->make(*comm, static_cast<cudaStream_t>(device.stream()), 0),
        make_staged_sums(*comm, device)};
    const std::uint64_t large = std::uint64_t{1} << 40, rank = static_cast<std::uint64_t>(comm->rank()),
                        ranks = static_cast<std::uint64_t>(comm->size());
    for (const auto& sums : ways) {
        const device::Memory<std::uint64_t> counts = device::make_memory<std::uint64_t>(device, 2048);
        std::vector<std::uint64_t> mine(counts.size), expected(counts.size), found(counts.size);
        for (std::uint64_t i = 0; i < mine.size(); ++i) {
            mine[i] = large + i * (rank + 1);
            expected[i] = ranks * (large * ranks + i * ranks * (ranks + 1) / 2);
        }
        device.upload(std::as_bytes(std::span(mine)), counts.data());
        sums->add_counts(counts.span());
        sums->add_counts(counts.span());
        sums->finish();
        device.download(counts.data(), std::as_writable_bytes(std::span(found)));
        EXPECT_EQ(found, expected);
    }
}

TEST_F(NcclSums, OfOneRankAreItsOwn) {
    const std::unique_ptr<Communicator> self = comm->split(comm->rank());
    const auto sums = strata_nccl_backend()->make(*self, static_cast<cudaStream_t>(*work), 0);
    const std::vector<float> mine = values_of(comm->rank(), 0, 100);
    put(mine);
    const DeviceSums::Part all = {part(0, mine.size())};
    sums->add({&all, 1});
    sums->finish();
    EXPECT_EQ(get(mine.size()), mine);
}

// Groups of ranks have sums of their own at the same time.
TEST_F(NcclSums, OfTwoGroupsDoNotMeet) {
    const std::unique_ptr<Communicator> group = comm->split(comm->rank() % 2);
    const auto sums = strata_nccl_backend()->make(*group, static_cast<cudaStream_t>(*work), 0);
    put({static_cast<float>(1 + comm->rank() % 2)});
    const DeviceSums::Part one = {part(0, 1)};
    sums->add({&one, 1});
    sums->finish();
    EXPECT_EQ(get(1), std::vector{static_cast<float>((1 + comm->rank() % 2) * group->size())});
}

}  // namespace
}  // namespace strata
