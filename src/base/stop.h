#pragma once
// A request to stop: SIGTERM, SIGINT or SIGUSR1 set a flag, and a time limit draws near; the training loop
// looks between steps.

#include <chrono>
#include <optional>

namespace strata {

// Install before MPI starts: a scheduler may signal at any moment. A second SIGINT ends the program at once.
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
