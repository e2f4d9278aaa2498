#include "config/errors.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace strata::config {

void Errors::add(const Origin& origin, std::string_view what) {
    const bool option = origin.line == 0;
    Error error{option ? std::numeric_limits<int>::max() : origin.line,
                option ? fmt::format("--set {}: {}", origin.key, what)
                       : fmt::format("{}:{}: {}: {}", file_, origin.line, origin.key, what)};
    // Combinations of a suite share their values' errors.
    if (std::find(list_.begin(), list_.end(), error) == list_.end()) list_.push_back(std::move(error));
}

void Errors::raise() {
    if (list_.empty()) return;
    std::stable_sort(list_.begin(), list_.end(),
                     [](const Error& a, const Error& b) { return a.line < b.line; });
    std::string text;
    for (const Error& error : list_) text += (text.empty() ? "" : "\n") + error.text;
    throw UsageError(text);
}

}  // namespace strata::config
