#pragma once
// A request to stop: SIGTERM, SIGINT or SIGUSR1 come, or a time limit draws near; the training loop looks
// between steps.

#include <chrono>
#include <optional>

namespace strata {

// Before any other thread is started: the signals are blocked in this one and all that it starts from now on,
// and a thread of their own waits for them. No handler may run on a thread that computes: oneDNN's products
// keep their stack pointer on the heap (uxlfoundation/oneDNN#4845), where a handler's frame overwrites what
// others allocated. A second SIGINT ends the program at once.
void catch_stop_signals();

// What is left of the time limit when a stop is requested, beside what saving takes: for the step under way,
// and for the other ranks and the launcher to end.
inline constexpr std::chrono::seconds stop_margin{30};

// From the main thread, as the next: `end` is when the program must have ended; nullopt: no limit.
void stop_before(std::optional<std::chrono::system_clock::time_point> end);

// The time that saving took, and will take again.
void saving_took(std::chrono::duration<double> time);

bool stop_requested();

}  // namespace strata
