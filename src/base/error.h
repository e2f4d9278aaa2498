#pragma once
// Errors. Two kinds, because they end the program differently:
//   UsageError  wrong command line or configuration; nothing was written; exit status 2
//   RunError    something failed while running (data, disk, another rank); exit status 1
// A message names the thing (file, key, dataset, tensor), what was found, what was expected and what to do.

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace strata {

enum ExitStatus : int { exit_done = 0, exit_failed = 1, exit_usage = 2, exit_stopped = 75 };

struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct RunError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
    throw UsageError(fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
    throw RunError(fmt::format(format, std::forward<Args>(args)...));
}

// What `read` returns. What fails while reading something that the command line or the configuration names is
// for the user to put right: UsageError.
template <typename Read>
auto named_by_user(const Read& read) {
    try {
        return read();
    } catch (const RunError& error) {
        throw UsageError(error.what());
    }
}

// An invariant of the program itself; checked in every build, so it may stand only where its cost is nil.
#define STRATA_ASSERT(condition)                                                                         \
    do {                                                                                                 \
        if (!(condition))                                                                                \
            ::strata::fail("{}:{}: internal invariant broken: {}; please report it", __FILE__, __LINE__, \
                           #condition);                                                                  \
    } while (false)

}  // namespace strata
