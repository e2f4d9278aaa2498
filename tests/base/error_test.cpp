#include "base/error.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <thread>

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

// Which thread of the process learns of a signal is open, and so is when.
void await_stop() {
    while (!stop_requested()) std::this_thread::yield();
}

// `act` in a process of its own, which may change how that takes signals: its exit status.
int status_of(const std::function<void()>& act) {
    const pid_t child = fork();
    if (child == 0) {
        act();
        _exit(0);
    }
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return status;
}

TEST(Stop, IsRequestedBySignalsAndOnlyThen) {
    for (const int number : {SIGUSR1, SIGTERM, SIGINT})
        EXPECT_EQ(status_of([&] {
                      catch_stop_signals();
                      if (stop_requested()) _exit(3);
                      kill(getpid(), number);
                      await_stop();
                      if (number == SIGINT) return;
                      kill(getpid(), number);  // asked twice; does not end the program
                      kill(getpid(), SIGTERM);
                  }),
                  0);
}

TEST(Stop, ASecondInterruptEndsTheProgram) {
    const int status = status_of([] {
        catch_stop_signals();
        kill(getpid(), SIGINT);
        await_stop();
        while (true) kill(getpid(), SIGINT);
    });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT) << status;
}

TEST(Stop, NoSignalReachesAThreadThatComputes) {
    EXPECT_EQ(status_of([] {
                  catch_stop_signals();
                  std::thread([] {
                      sigset_t blocked;
                      pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
                      for (const int number : {SIGTERM, SIGINT, SIGUSR1})
                          if (sigismember(&blocked, number) != 1) _exit(3);
                  }).join();
              }),
              0);
}

}  // namespace
}  // namespace strata
