#include "comm/selection.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <vector>

namespace strata {

std::uint64_t ties_to_take(std::span<const std::uint64_t> ties_of_ranks, int rank, std::uint64_t wanted) {
    const auto here = static_cast<std::size_t>(rank);
    std::uint64_t before = 0;
    for (const std::uint64_t ties : ties_of_ranks.first(here)) before += ties;
    return before >= wanted ? 0 : std::min(wanted - before, ties_of_ranks[here]);
}

Selection select_largest(Communicator& comm, std::uint64_t k, const DigitHistogram& histogram) {
    Selection result;
    std::uint32_t prefix = 0;
    std::uint64_t wanted = k;  // rank of the k-th largest among the values that share `prefix`
    std::uint64_t ties_here = 0;
    std::array<std::uint64_t, 2048> counts{};
    std::array<std::uint64_t, 2048> mine{};
    for (const auto [shift, digits] : selection_rounds) {
        const std::span here = std::span(counts).first(std::size_t{1} << digits);
        std::ranges::fill(here, 0);
        histogram(prefix, shift, digits, here);
        std::ranges::copy(here, mine.begin());
        comm.sum(here);
        if (shift == selection_rounds[0].shift) {
            for (const std::uint64_t c : here) result.available += c;
            if (k == 0) result.threshold = std::numeric_limits<float>::infinity();
            if (result.available < k || k == 0) return result;
        }
        std::size_t digit = here.size() - 1;
        while (here[digit] < wanted) wanted -= here[digit--];
        prefix = (prefix << digits) | static_cast<std::uint32_t>(digit);
        ties_here = mine[digit];
    }
    result.threshold = std::bit_cast<float>(prefix);

    std::vector<std::uint64_t> ties(static_cast<std::size_t>(comm.size()));
    comm.gather({&ties_here, 1}, ties);
    result.ties_to_take = ties_to_take(ties, comm.rank(), wanted);
    return result;
}

}  // namespace strata
