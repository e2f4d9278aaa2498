#include "base/stop.h"

#include <atomic>
#include <csignal>
#include <initializer_list>
#include <thread>

namespace strata {
namespace {

using Clock = std::chrono::system_clock;

std::atomic<bool> requested = false;
std::optional<Clock::time_point> limit;
std::chrono::duration<double> saving{0};

sigset_t stop_signals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&set, number);
    return set;
}

[[noreturn]] void wait_for_signals() {
    const sigset_t set = stop_signals();
    while (true) {
        int number = 0;
        sigwait(&set, &number);
        requested = true;
        if (number != SIGINT) continue;
        sigset_t interrupt;
        sigemptyset(&interrupt);
        sigaddset(&interrupt, SIGINT);
        std::signal(SIGINT, SIG_DFL);
        pthread_sigmask(SIG_UNBLOCK, &interrupt, nullptr);
    }
}

}  // namespace

void catch_stop_signals() {
    const sigset_t set = stop_signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    std::thread(wait_for_signals).detach();
}

void stop_before(std::optional<Clock::time_point> end) {
    limit = end;
}

void saving_took(std::chrono::duration<double> time) {
    saving = time;
}

bool stop_requested() {
    return requested || (limit && Clock::now() + stop_margin + saving > *limit);
}

}  // namespace strata
