#include "base/phase.h"

#include <fmt/format.h>

#include <atomic>

namespace strata {
namespace {

std::atomic<const char*> present = "the start";
std::atomic<std::int64_t> steps = -1;

}  // namespace

Phase::Phase(const char* what) : before_(present.exchange(what)) {}

Phase::~Phase() {
    present = before_;
}

void note_step(std::int64_t step) {
    steps = step;
}

std::string present_phase() {
    const std::int64_t step = steps;
    return step < 0 ? present.load() : fmt::format("{}, step {}", present.load(), step);
}

}  // namespace strata
