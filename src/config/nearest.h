#pragma once
// What was probably meant by a misspelt word.

#include <span>
#include <string_view>

namespace strata::config {

// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`, without regard to
// case; `-` counts as `_`.
int edit_distance(std::string_view a, std::string_view b);

// The nearest of `words`, or "" if none is near: at most a third of the longer word's letters wrong.
std::string_view nearest(std::string_view word, std::span<const std::string_view> words);

}  // namespace strata::config
