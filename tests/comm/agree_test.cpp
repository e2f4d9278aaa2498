// An error on some ranks ends all, once, with its message. Run at 1, 2, 3 and 4 ranks.

#include "comm/agree.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

#include <new>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "comm/mpi.h"
#include "comm/self.h"

namespace strata {
namespace {

// What this rank logs while it lives.
class CapturedLog {
  public:
    CapturedLog() : before_(log::default_logger()) {
        log::set_default_logger(
            std::make_shared<log::logger>("captured", std::make_shared<log::sinks::ostream_sink_mt>(text_)));
        log::set_pattern("%v");
    }
    ~CapturedLog() { log::set_default_logger(before_); }
    std::string text() const { return text_.str(); }

  private:
    std::ostringstream text_;
    std::shared_ptr<log::logger> before_;
};

class Together : public testing::TestWithParam<bool> {
  protected:
    const std::unique_ptr<Communicator> comm =
        GetParam() ? make_mpi_communicator() : make_self_communicator();

    // The status with which it ended, -1 if it did not.
    int status_of(const std::function<void()>& work) {
        try {
            together(*comm, work);
        } catch (const Ended& ended) {
            return ended.status;
        }
        return -1;
    }
};

INSTANTIATE_TEST_SUITE_P(Over, Together, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Mpi" : "Self"; });

TEST_P(Together, GoesOnWhereNothingIsThrown) {
    CapturedLog log;
    int done = 0;
    EXPECT_EQ(status_of([&] { ++done; }), -1);
    EXPECT_EQ(done, 1);
    EXPECT_EQ(log.text(), "");
}

TEST_P(Together, OneRanksErrorEndsAllWithItsStatusAndOneMessage) {
    for (int culprit = 0; culprit < comm->size(); ++culprit) {
        CapturedLog log;
        EXPECT_EQ(status_of([&] {
                      if (comm->rank() == culprit) fail("rank {} broke", culprit);
                  }),
                  exit_failed);
        EXPECT_EQ(log.text(), comm->rank() == culprit ? fmt::format("rank {} broke\n", culprit) : "");
    }
}

TEST_P(Together, TheLowestRankThatThrowsSpeaksAndDecides) {
    CapturedLog log;
    EXPECT_EQ(status_of([&] {
                  if (comm->rank() == 0) refuse("wrong key");
                  fail("rank {} broke", comm->rank());
              }),
              exit_usage);
    EXPECT_EQ(log.text(), comm->rank() == 0 ? "wrong key\n" : "");
}

TEST_P(Together, OtherExceptionsAreReportedToo) {
    {
        CapturedLog log;
        EXPECT_EQ(status_of([] { throw std::bad_alloc(); }), exit_failed);
        EXPECT_EQ(log.text(), comm->rank() == 0 ? "out of memory\n" : "");
    }
    CapturedLog log;
    EXPECT_EQ(status_of([] { throw std::out_of_range("far out"); }), exit_failed);
    EXPECT_EQ(log.text(), comm->rank() == 0 ? "far out\n" : "");
}

// The message is out and the status agreed upon: both pass through.
TEST_P(Together, InsideAnotherKeepsTheStatusAndSaysItOnce) {
    CapturedLog log;
    EXPECT_EQ(status_of([&] { together(*comm, [] { refuse("wrong key"); }); }), exit_usage);
    EXPECT_EQ(log.text(), comm->rank() == 0 ? "wrong key\n" : "");
}

TEST_P(Together, CollectivesWorkAfterwards) {
    CapturedLog log;
    status_of([&] { fail("broke"); });
    std::vector<std::uint64_t> one = {1};
    comm->sum(std::span(one));
    EXPECT_EQ(one[0], static_cast<std::uint64_t>(comm->size()));
}

}  // namespace
}  // namespace strata
