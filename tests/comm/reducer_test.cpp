// Gradient buckets summed with and without a helper thread. Run at 1, 2, 3 and 4 ranks.

#include "comm/reducer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "comm/mpi.h"

namespace strata {
namespace {

std::vector<float> gradient_of(int rank, int round, std::size_t size) {
    std::vector<float> values(size);
    for (std::size_t i = 0; i < size; ++i)
        values[i] = std::sin(static_cast<float>(i) + 100.0F * static_cast<float>(rank) +
                             17.0F * static_cast<float>(round));
    return values;
}

// Several steps of several buckets, some empty, some larger than a piece of MPI's.
std::vector<float> reduced(bool overlap) {
    const auto comm = make_mpi_communicator();
    Reducer reducer(*comm, overlap);
    constexpr std::size_t sizes[] = {1000, 0, 3, 1200007, 64, 1};
    std::vector<float> results;
    for (int round = 0; round < 3; ++round) {
        std::vector<float> all = gradient_of(comm->rank(), round, 1201075);
        std::size_t at = 0;
        for (const std::size_t size : sizes) {
            reducer.submit(std::span(all).subspan(at, size));
            at += size;
        }
        EXPECT_EQ(at, all.size());
        // Other traffic while the helper is busy.
        std::vector<double> one = {1};
        comm->sum(std::span(one));
        EXPECT_EQ(one[0], comm->size());
        reducer.wait();
        results.insert(results.end(), all.begin(), all.end());
    }
    reducer.wait();
    return results;
}

TEST(Reducer, OverlapChangesNoBit) {
    const std::vector<float> at_once = reduced(false);
    const std::vector<float> beside = reduced(true);
    EXPECT_TRUE(at_once == beside);
    const auto comm = make_mpi_communicator();
    double worst = 0;
    for (int round = 0; round < 3; ++round) {
        std::vector<double> expected(1201075);
        for (int r = 0; r < comm->size(); ++r) {
            const std::vector<float> part = gradient_of(r, round, expected.size());
            for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += part[i];
        }
        for (std::size_t i = 0; i < expected.size(); ++i)
            worst = std::max(worst, std::abs(expected[i] -
                                             at_once[static_cast<std::size_t>(round) * expected.size() + i]));
    }
    EXPECT_LT(worst, 1e-6);
}

TEST(Reducer, EndsWithoutWork) {
    const auto comm = make_mpi_communicator();
    { Reducer reducer(*comm, true); }
    Reducer reducer(*comm, true);
    reducer.wait();
}

// A gradient that could not be summed ends the step, but not before the helper is done with the memory.
TEST(Reducer, IsDestroyedOnlyAfterItsBuckets) {
    const auto comm = make_mpi_communicator();
    std::vector<float> values(300000, 1);
    {
        Reducer reducer(*comm, true);
        for (std::size_t at = 0; at < values.size(); at += 30000)
            reducer.submit(std::span(values).subspan(at, 30000));
    }
    for (const float v : values) ASSERT_EQ(v, static_cast<float>(comm->size()));
}

}  // namespace
}  // namespace strata
