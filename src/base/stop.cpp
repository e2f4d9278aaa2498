#include "base/stop.h"

#include <csignal>
#include <initializer_list>

namespace strata {
namespace {

using Clock = std::chrono::system_clock;

volatile std::sig_atomic_t requested = 0;
std::optional<Clock::time_point> limit;
std::chrono::duration<double> saving{0};

extern "C" void on_stop_signal(int number) {
    requested = 1;
    if (number == SIGINT) std::signal(SIGINT, SIG_DFL);
}

}  // namespace

void catch_stop_signals() {
    struct sigaction action {};
    action.sa_handler = on_stop_signal;
    action.sa_flags = SA_RESTART;
    for (const int number : {SIGTERM, SIGINT, SIGUSR1}) sigaction(number, &action, nullptr);
}

void stop_before(std::optional<Clock::time_point> end) {
    limit = end;
}

void saving_took(std::chrono::duration<double> time) {
    saving = time;
}

bool stop_requested() {
    return requested != 0 || (limit && Clock::now() + stop_margin + saving > *limit);
}

}  // namespace strata
