#include "base/error.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/stop.h"

namespace strata {
namespace {

TEST(Errors, CarryTheirMessages) {
    try {
        refuse("key {} is {}", "a", 3);
        ADD_FAILURE();
    } catch (const UsageError& e) {
        EXPECT_STREQ(e.what(), "key a is 3");
    }
    try {
        fail("{} of {}", 1, 2);
        ADD_FAILURE();
    } catch (const RunError& e) {
        EXPECT_STREQ(e.what(), "1 of 2");
    }
}

TEST(Errors, BrokenInvariantsNameThemselvesInEveryBuild) {
    EXPECT_NO_THROW(STRATA_ASSERT(1 + 1 == 2));
    try {
        STRATA_ASSERT(1 + 1 == 3);
        ADD_FAILURE();
    } catch (const RunError& e) {
        EXPECT_NE(std::string(e.what()).find("1 + 1 == 3"), std::string::npos);
        EXPECT_NE(std::string(e.what()).find("error_test.cpp"), std::string::npos);
    }
}

TEST(Stop, IsRequestedShortOfTheTimeLimit) {
    using namespace std::chrono_literals;
    const auto now = std::chrono::system_clock::now();
    EXPECT_FALSE(stop_requested());
    stop_before(now + stop_margin + 1h);
    EXPECT_FALSE(stop_requested());
    saving_took(1h);
    EXPECT_TRUE(stop_requested());
    saving_took(1s);
    EXPECT_FALSE(stop_requested());
    stop_before(now + stop_margin);
    EXPECT_TRUE(stop_requested());
    stop_before(std::nullopt);
    EXPECT_FALSE(stop_requested());
}

TEST(Stop, IsRequestedBySignalsAndOnlyThen) {
    catch_stop_signals();
    EXPECT_FALSE(stop_requested());
    std::raise(SIGUSR1);
    EXPECT_TRUE(stop_requested());
    std::raise(SIGTERM);  // asked twice; does not end the program
    EXPECT_TRUE(stop_requested());
}

TEST(Stop, ASecondInterruptEndsTheProgram) {
    const pid_t child = fork();
    if (child == 0) {
        catch_stop_signals();
        std::raise(SIGINT);
        if (!stop_requested()) _exit(3);
        std::raise(SIGINT);
        _exit(4);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT) << status;
}

}  // namespace
}  // namespace strata
