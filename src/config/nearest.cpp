#include "config/nearest.h"

#include <algorithm>
#include <cctype>
#include <vector>

namespace strata::config {
namespace {

char folded(char c) {
    return c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
}

}  // namespace

int edit_distance(std::string_view a, std::string_view b) {
    std::vector<int> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j) last[j] = static_cast<int>(j);
    for (std::size_t i = 1; i <= a.size(); ++i) {
        row[0] = static_cast<int>(i);
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const bool same = folded(a[i - 1]) == folded(b[j - 1]);
            row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (same ? 0 : 1)});
            if (i > 1 && j > 1 && folded(a[i - 1]) == folded(b[j - 2]) &&
                folded(a[i - 2]) == folded(b[j - 1]))
                row[j] = std::min(row[j], before[j - 2] + 1);
        }
        std::swap(before, last);
        std::swap(last, row);
    }
    return last[b.size()];
}

std::string_view nearest(std::string_view word, std::span<const std::string_view> words) {
    std::string_view best;
    int best_distance = 0;
    for (const std::string_view candidate : words) {
        const int limit = static_cast<int>(std::max(word.size(), candidate.size()) + 2) / 3;
        // The product of lengths bounds the cost, so a word that is too long for any limit is not compared at
        // all.
        if (word.size() > 2 * candidate.size() + 2) continue;
        const int distance = edit_distance(word, candidate);
        if (distance <= limit && distance < static_cast<int>(candidate.size()) &&
            (best.empty() || distance < best_distance)) {
            best = candidate;
            best_distance = distance;
        }
    }
    return best;
}

}  // namespace strata::config
