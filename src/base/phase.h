#pragma once
// What this process is doing, in a few words, for messages about a rank that is heard of no more.

#include <cstdint>
#include <string>

namespace strata {

// For the life of the object; phases nest. `what` must outlive it, as a literal does.
class Phase {
  public:
    explicit Phase(const char* what);
    ~Phase();
    Phase(const Phase&) = delete;
    Phase& operator=(const Phase&) = delete;

  private:
    const char* before_;
};

// Steps done, shown beside the phase; -1: none yet.
void note_step(std::int64_t step);

// "the sum of gradients, step 1200"; from any thread.
std::string present_phase();

}  // namespace strata
