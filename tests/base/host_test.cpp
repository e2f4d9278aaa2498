// The memory of a host, read from made-up proc and sys folders.

#include "base/host.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "support/folder.h"

namespace strata {
namespace {

class HostMemory : public testing::Test {
  protected:
    void put(const std::string& path, const std::string& text) {
        std::filesystem::create_directories((folder_ / path).parent_path());
        std::ofstream(folder_ / path) << text;
    }
    std::int64_t memory() { return host_memory(folder_ / ""); }

    test::Folder folder_;
};

TEST_F(HostMemory, IsTheMachinesWhereNothingLimitsIt) {
    put("proc/meminfo", "MemFree:   7 kB\nMemTotal:   2000 kB\nMemAvailable: 5 kB\n");
    EXPECT_EQ(memory(), 2000 * 1024);
    put("proc/self/cgroup", "0::/job/step\n");
    put("sys/fs/cgroup/job/memory.max", "max\n");
    put("sys/fs/cgroup/job/step/memory.max", "99999999999\n");
    EXPECT_EQ(memory(), 2000 * 1024);
}

TEST_F(HostMemory, IsTheLeastLimitOfAllGroupsAbove) {
    put("proc/meminfo", "MemTotal: 2000 kB\n");
    put("proc/self/cgroup", "0::/job/step\n");
    put("sys/fs/cgroup/job/memory.max", "500000\n");
    put("sys/fs/cgroup/job/step/memory.max", "max\n");
    EXPECT_EQ(memory(), 500000);
    put("sys/fs/cgroup/memory.max", "400000\n");
    EXPECT_EQ(memory(), 400000);
}

TEST_F(HostMemory, KnowsGroupsOfTheFirstVersion) {
    put("proc/meminfo", "MemTotal: 2000 kB\n");
    put("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:hugetlb,memory:/a/b\n");
    put("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    EXPECT_EQ(memory(), 2000 * 1024);
    put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "600000\n");
    EXPECT_EQ(memory(), 600000);
}

TEST_F(HostMemory, IsAnErrorWhereTheMachineDoesNotTell) {
    EXPECT_THROW(memory(), RunError);
}

}  // namespace
}  // namespace strata
