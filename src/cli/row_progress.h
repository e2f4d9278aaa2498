#pragma once
// How far a command has come that goes through many rows.

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/stop.h"

namespace strata {

// One line on a terminal's standard error, at most twice a second; ends the work when a stop was asked for.
class RowProgress {
  public:
    RowProgress(std::string what, std::int64_t total) : what_(std::move(what)), total_(total) {}
    ~RowProgress() {
        if (shown_) fmt::print(stderr, "\r\033[K");
    }
    RowProgress(const RowProgress&) = delete;
    RowProgress& operator=(const RowProgress&) = delete;

    void operator()(std::int64_t rows) {
        if (stop_requested()) fail("{}: stopped on request after {} of {} rows", what_, rows, total_);
        const auto now = std::chrono::steady_clock::now();
        if (!terminal_ || now - last_ < std::chrono::milliseconds(500)) return;
        const double seconds = std::chrono::duration<double>(now - start_).count();
        fmt::print(stderr, "\r\033[K{}: {:.0f} %, {:.0f} rows/s", what_,
                   100.0 * static_cast<double>(rows) / static_cast<double>(total_),
                   static_cast<double>(rows) / seconds);
        std::fflush(stderr);
        last_ = now;
        shown_ = true;
    }

  private:
    std::string what_;
    std::int64_t total_;
    bool terminal_ = ::isatty(STDERR_FILENO) != 0;
    bool shown_ = false;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now(), last_ = start_;
};

}  // namespace strata
