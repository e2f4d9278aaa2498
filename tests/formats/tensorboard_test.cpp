#include "formats/tensorboard.h"

#include <gtest/gtest.h>

#include <numeric>

#include "support/tensorboard.h"

namespace strata::tensorboard {
namespace {

// RFC 3720, B.4, and the check value of the algorithm.
TEST(Crc32c, IsThatOfTheStandard) {
    std::string rising(32, '\0');
    std::iota(rising.begin(), rising.end(), '\0');
    EXPECT_EQ(crc32c(""), 0);
    EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
    EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
    EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
    EXPECT_EQ(crc32c(rising), 0x46dd794eU);
}

TEST(Events, AreReadBack) {
    const std::int64_t large = (std::int64_t{1} << 40) + 300;
    const std::vector<Scalar> some = {{"loss", 0.25F}, {std::string(300, 't'), -1e-30F}};
    const std::vector<test::Event> events = test::read_events(
        start_of_file(1.5e9, 127) + record_of(1.5e9 + 0.5, 128, some) + record_of(2e9, large, {}));
    ASSERT_EQ(events.size(), 4);
    EXPECT_EQ(events[0].version, "brain.Event:2");
    EXPECT_EQ(events[0].step, 0);
    EXPECT_EQ(events[0].session, 0);
    EXPECT_EQ(events[1].version, "");
    EXPECT_EQ(events[1].step, 127);
    EXPECT_EQ(events[1].session, 1);
    EXPECT_EQ(events[2].time, 1.5e9 + 0.5);
    EXPECT_EQ(events[2].step, 128);
    EXPECT_EQ(events[2].scalars,
              (std::map<std::string, float>{{"loss", 0.25F}, {std::string(300, 't'), -1e-30F}}));
    EXPECT_EQ(events[3].step, large);
    EXPECT_TRUE(events[3].scalars.empty());
}

}  // namespace
}  // namespace strata::tensorboard
