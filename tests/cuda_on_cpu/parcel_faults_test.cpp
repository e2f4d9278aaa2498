// What only the stand-in of a GPU can tell of batches on their way.

#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "cuda_on_cpu.h"
#include "support/parcels.h"

namespace strata {
namespace {

using test::n;

struct ParcelFaults : testing::Test {
    ParcelFaults() { GTEST_FLAG_SET(death_test_style, "fast"); }
};

TEST_F(ParcelFaults, NoneOfPageableMemory) {
    const auto device = test::make_parcel_device(0, 3);
    const auto parcel = device->make_parcel({3, n, Element::float32, {}});
    EXPECT_TRUE(cuda_on_cpu::in_pinned_memory(parcel->x().data(), parcel->x().size()));
}

// A process that works on one GPU takes no memory of another, in whatever thread it calls.
TEST_F(ParcelFaults, NoOtherGpuIsOpened) {
    cuda_on_cpu::opened_devices();
    {
        const auto device = test::make_parcel_device(3, 1);
        const auto parcel = device->make_parcel({1, n, Element::float32, {}});
        std::jthread([&] {
            parcel->wait();
            std::ranges::fill(parcel->x(), std::byte{1});
            parcel->send(1, 1);
        });
        std::jthread([&] { parcel->wait(); });
    }
    EXPECT_EQ(cuda_on_cpu::opened_devices(), std::set{3});
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
}

TEST_F(ParcelFaults, WritesUnderWayEndTheProgram) {
    const auto device = test::make_parcel_device(0, 1);
    const auto parcel = device->make_parcel({1, n, Element::float32, {}});
    std::ranges::fill(parcel->x(), std::byte{1});
    parcel->send(1, 1);
    EXPECT_DEATH(
        {
            parcel->x()[3] = std::byte{2};
            parcel->wait();
        },
        "pinned memory was written while its copy of 256 bytes to the device was under way");
}

}  // namespace
}  // namespace strata
