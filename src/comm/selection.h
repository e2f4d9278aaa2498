#pragma once
// The k-th largest value of the whole distributed batch, exactly, without gathering the values: a radix
// select on the bit patterns of positive floats (whose order is that of their bits), with histograms summed
// over ranks.

#include <array>
#include <cstdint>
#include <functional>
#include <span>

#include "comm/communicator.h"

namespace strata {

// Counts this rank's values whose bits, shifted right by `shift + digits`, equal `prefix`, by their next
// `digits` bits. All values are positive and finite.
using DigitHistogram =
    std::function<void(std::uint32_t prefix, int shift, int digits, std::span<std::uint64_t> counts)>;

// The digits, from the highest, of the 31 bits below the sign.
struct SelectionRound {
    int shift, digits;
};
inline constexpr std::array<SelectionRound, 3> selection_rounds = {{{20, 11}, {10, 10}, {0, 10}}};

struct Selection {
    float threshold = 0;          // the k-th largest value; 0 if there are fewer than k, infinity if k is 0
    std::uint64_t available = 0;  // values on all ranks
    std::uint64_t ties_to_take =
        0;  // of this rank's values equal to the threshold: the first so many are selected
};

// Where `wanted` of all ranks' values that equal the threshold are selected: how many of them this rank's
// are.
std::uint64_t ties_to_take(std::span<const std::uint64_t> ties_of_ranks, int rank, std::uint64_t wanted);

// Selects the `k` largest of all ranks' values: those above the threshold, and of those equal to it the first
// in order of (rank, this rank's order), so that exactly k are taken. With fewer than k values all are taken.
Selection select_largest(Communicator& comm, std::uint64_t k, const DigitHistogram& histogram);

}  // namespace strata
