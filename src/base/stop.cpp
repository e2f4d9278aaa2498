#include "base/stop.h"

#include <csignal>
#include <initializer_list>

namespace strata {
namespace {

volatile std::sig_atomic_t requested = 0;

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

bool stop_requested() {
    return requested != 0;
}

}  // namespace strata
