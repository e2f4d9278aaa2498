// What a run hears of NCCL's errors, which its stand-in makes. Run at 1, 2 and 4 ranks.

#include <gmock/gmock.h>

#include <array>
#include <cstdlib>

#include "base/error.h"
#include "support/nccl_sums.h"

namespace strata {
namespace {

using test::values_of;
using testing::HasSubstr;

class NcclSumsFaults : public test::NcclSumsTest {
  protected:
    void TearDown() override {
        ::unsetenv("NCCL_ON_CPU_FAULT");
        NcclSumsTest::TearDown();
    }
    // Of `rank` of this world, the N-th sum.
    static void break_sum(const char* how, int rank, int number) {
        ::setenv("NCCL_ON_CPU_FAULT", fmt::format("{}@{}:{}", how, rank, number).c_str(), 1);
    }
    // What finish() says; "" if nothing.
    static std::string outcome(DeviceSums& sums) {
        try {
            sums.finish();
        } catch (const RunError& error) {
            return error.what();
        }
        return "";
    }
};

TEST_F(NcclSumsFaults, AnErrorThatOnlyAskingTellsEndsThem) {
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
        EXPECT_THAT(said, HasSubstr(fmt::format("rank {} of {}: the sums over ranks: remote process exited "
                                                "or there was a network error: the stand-in was told to fail",
                                                comm->rank(), comm->size())));
    else
        EXPECT_THAT(said, HasSubstr("not done after"));
}

TEST_F(NcclSumsFaults, OneThatDoesNotEndEndsThem) {
    break_sum("hang", comm->size() - 1, 0);
    const auto sums = make(0.5);
    put(values_of(comm->rank(), 0, 100));
    const DeviceSums::Part all = {part(0, 100)};
    sums->add({&all, 1});
    EXPECT_THAT(outcome(*sums), HasSubstr("another rank, or the link to it, does not answer"));
}

// What is wrong with one call of a group ends it before the communicator is left.
TEST_F(NcclSumsFaults, AnErrorWithinAGroupEndsThem) {
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

TEST_F(NcclSumsFaults, OfRanksThatShareAGpuAreRefused) {
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
