// Sums of GPU memory over ranks, by NCCL's stand-in and through host memory. Run at 1, 2 and 4 ranks.

#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <deque>
#include <vector>

#include "base/error.h"
#include "comm/mpi.h"
#include "device/backend.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda/runtime.h"

extern "C" const strata::device::NcclBackend* strata_nccl_backend();

namespace strata {
namespace {

using testing::HasSubstr;

constexpr std::size_t sizes[] = {1000, 0, 3, 70001, 64, 1};

std::vector<float> values_of(int rank, int round, std::size_t size) {
    std::vector<float> values(size);
    for (std::size_t i = 0; i < size; ++i)
        values[i] = std::sin(static_cast<float>(i) + 100.0F * static_cast<float>(rank) +
                             17.0F * static_cast<float>(round));
    return values;
}

class NcclSums : public testing::Test {
  protected:
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    void SetUp() override {
        ASSERT_EQ(cudaSetDevice(comm->rank()), cudaSuccess);
        memory.emplace("the gradients of a test");
        work.emplace();
        memory->grow(80000);
    }
    void TearDown() override {
        ::unsetenv("NCCL_ON_CPU_FAULT");
        comm->barrier();
    }
    std::unique_ptr<DeviceSums> make(double limit = 0) const {
        return strata_nccl_backend()->make(*comm, static_cast<cudaStream_t>(*work), limit);
    }
    // Of `rank` of this world, the N-th sum.
    static void break_sum(const char* how, int rank, int number) {
        ::setenv("NCCL_ON_CPU_FAULT", fmt::format("{}@{}:{}", how, rank, number).c_str(), 1);
    }
    void put(std::vector<float> values, std::size_t at = 0) {
        const std::span<const float> stays = put_.emplace_back(std::move(values));
        device::cuda::upload(stays, memory->data() + at, *work, "values");
    }
    std::vector<float> get(std::size_t size) {
        std::vector<float> values(size);
        device::cuda::download(memory->data(), std::span(values), *work, "values");
        return values;
    }
    std::span<float> part(std::size_t at, std::size_t size) const { return {memory->data() + at, size}; }

    // What finish() says; "" if nothing.
    static std::string outcome(DeviceSums& sums) {
        try {
            sums.finish();
        } catch (const RunError& error) {
            return error.what();
        }
        return "";
    }

    std::optional<device::cuda::DeviceArray<float>> memory;
    std::optional<device::cuda::Stream> work;

  private:
    std::deque<std::vector<float>> put_;  // until it has been copied
};

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
        EXPECT_LT(worst, 1e-6);
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

TEST_F(NcclSums, AnErrorThatOnlyAskingTellsEndsThem) {
    if (comm->size() == 1)
        break_sum("error", 0, 1);
    else
        break_sum("error", comm->size() - 1, 1);
    const auto sums = make(0.5);
    put(values_of(comm->rank(), 0, 100));
    const DeviceSums::Part all = {part(0, 100)};
    sums->add({&all, 1});
    EXPECT_EQ(outcome(*sums), "");
    sums->add({&all, 1});
    const std::string said = outcome(*sums);
    if (comm->rank() == comm->size() - 1)
        EXPECT_THAT(said, HasSubstr(fmt::format(
                              "rank {} of {}: the sums of gradients over ranks: remote process exited "
                              "or there was a network error: the stand-in was told to fail",
                              comm->rank(), comm->size())));
    else
        EXPECT_THAT(said, HasSubstr("not done after"));
}

TEST_F(NcclSums, OneThatDoesNotEndEndsThem) {
    break_sum("hang", comm->size() - 1, 0);
    const auto sums = make(0.5);
    put(values_of(comm->rank(), 0, 100));
    const DeviceSums::Part all = {part(0, 100)};
    sums->add({&all, 1});
    EXPECT_THAT(outcome(*sums), HasSubstr("another rank, or the link to it, does not answer"));
}

// What is wrong with one call of a group ends it before the communicator is left.
TEST_F(NcclSums, AnErrorWithinAGroupEndsThem) {
    const auto sums = make();
    put(values_of(comm->rank(), 0, 100));
    std::vector<float> of_host(100);
    const DeviceSums::Part parts[] = {{part(0, 100), 0}, {of_host, 0}, {part(0, 100), 0}};
    try {
        sums->add(parts);
        ADD_FAILURE() << "no error";
    } catch (const RunError& error) {
        EXPECT_THAT(error.what(), HasSubstr("ncclReduce: invalid argument"));
    }
}

TEST_F(NcclSums, OfRanksThatShareAGpuAreRefused) {
    if (comm->size() == 1) return;  // none to share it with
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    const device::cuda::Stream stream;
    try {
        strata_nccl_backend()->make(*comm, static_cast<cudaStream_t>(stream), 0);
        ADD_FAILURE() << "no error";
    } catch (const RunError& error) {
        EXPECT_THAT(error.what(), HasSubstr("Duplicate GPU"));
    }
    ASSERT_EQ(cudaSetDevice(comm->rank()), cudaSuccess);
}

}  // namespace
}  // namespace strata
