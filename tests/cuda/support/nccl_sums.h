#pragma once
// Sums of GPU memory over the ranks of the world, each on a GPU of its own.

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <optional>
#include <vector>

#include "comm/mpi.h"
#include "device/backend.h"
#include "device/cuda/runtime.h"

extern "C" const strata::device::NcclBackend* strata_nccl_backend();

namespace strata::test {

inline std::vector<float> values_of(int rank, int round, std::size_t size) {
    std::vector<float> values(size);
    for (std::size_t i = 0; i < size; ++i)
        values[i] = std::sin(static_cast<float>(i) + 100.0F * static_cast<float>(rank) +
                             17.0F * static_cast<float>(round));
    return values;
}

class NcclSumsTest : public testing::Test {
  protected:
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    void SetUp() override {
        ASSERT_EQ(cudaSetDevice(comm->rank()), cudaSuccess);
        memory.emplace("the gradients of a test");
        work.emplace();
        memory->grow(80000);
    }
    void TearDown() override { comm->barrier(); }
    std::unique_ptr<DeviceSums> make(double limit = 0) const {
        return strata_nccl_backend()->make(*comm, static_cast<cudaStream_t>(*work), limit);
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

    std::optional<device::cuda::DeviceArray<float>> memory;
    std::optional<device::cuda::Stream> work;

  private:
    std::deque<std::vector<float>> put_;  // until it has been copied
};

}  // namespace strata::test
