#pragma once
// A request to stop: SIGTERM, SIGINT or SIGUSR1 set a flag that the training loop looks at between steps.

namespace strata {

// Install before MPI starts: a scheduler may signal at any moment. A second SIGINT ends the program at once.
void catch_stop_signals();

bool stop_requested();

}  // namespace strata
