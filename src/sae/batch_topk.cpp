// BatchTopK (Bussmann et al., arXiv 2412.06410): the k B largest of all B M values ReLU(z) of the batch,
// where the batch is the whole distributed one. Fewer than k B positive values: all are kept.
//
// The screen needs a threshold before the batch's own is known: it guesses a little below the last one. If
// enough candidates reach the guess, the k B-th largest is among them and the selection is exact; otherwise
// the screen is repeated with a lower one.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "sae/kind.h"

namespace strata::sae {
namespace {

constexpr std::int64_t sampled_rows = 128;  // per rank, for the first guess of a run

// The lower edge of the histogram bin that holds the wanted-th largest of `rows` rows per rank, all ranks
// together.
float guess_from_histogram(const Selecting& s, std::int64_t local_rows, double wanted_per_row) {
    std::array<std::uint64_t, 2049> counts{};
    s.device.pre_activation_histogram(s.parameters, local_rows, std::span(counts).first(2048));
    counts[2048] = static_cast<std::uint64_t>(std::min(local_rows, s.local_rows));
    s.comm.sum(counts);
    double wanted = wanted_per_row * static_cast<double>(counts[2048]);
    for (std::size_t bin = 2048; bin-- > 0;) {
        wanted -= static_cast<double>(counts[bin]);
        if (wanted <= 0) return std::bit_cast<float>(static_cast<std::uint32_t>(bin) << 20);
    }
    return 0;
}

float select(const Selecting& s) {
    const std::int64_t wanted = codes_of_batch(s.config.k, s.rows);
    // Of all candidates, or of those that are not masked.
    const auto largest = [&](bool masked) {
        return s.device.select_largest(s.comm, s.sums, static_cast<std::uint64_t>(wanted), masked);
    };
    const bool compete_masked = s.masked && s.mask_first;
    const auto enough_room =
        static_cast<std::int64_t>(8 * s.config.k * static_cast<double>(s.local_rows)) + 65536;

    float guess = s.guess > 0 ? s.guess : guess_from_histogram(s, sampled_rows, 1.1 * s.config.k);
    for (int attempt = 0;; ++attempt) {
        // A limit only where a better guess can still be made; it must fall on all ranks alike.
        const bool fits = s.device.screen_above(s.parameters, {&guess, 1}, attempt == 0 ? enough_room : 0);
        std::array<std::uint32_t, 1> overflow = {fits ? 0U : 1U};
        if (attempt == 0) s.comm.any(overflow);
        if (overflow[0] == 0) {
            if (s.config.row_cap > 0)
                s.device.cap_rows(std::max<std::int64_t>(
                    1, std::llround(static_cast<double>(s.config.row_cap) * s.config.k)));
            const Selection found = largest(compete_masked);
            if (found.available >= static_cast<std::uint64_t>(wanted) || guess == 0) {
                if (s.masked) {
                    const Selection all = compete_masked ? largest(false) : found;
                    s.device.keep(device::CodeSet::observed, all.threshold, all.ties_to_take, false);
                }
                if (s.masked && !s.mask_first)
                    s.device.keep_unmasked(device::CodeSet::observed, device::CodeSet::main);
                else
                    s.device.keep(device::CodeSet::main, found.threshold, found.ties_to_take, s.masked);
                // Next time: below this threshold by twice its recent largest change from batch to batch, or
                // more.
                if (s.guess > 0) {
                    const float change = std::abs(found.threshold * (1 - s.margin) / s.guess - 1);
                    s.margin = std::clamp(std::max(0.9F * s.margin, 2 * change), 0.01F, 0.5F);
                } else {
                    s.margin = 0.1F;
                }
                s.guess = found.threshold * (1 - s.margin);
                return found.threshold;
            }
        }
        // Too many candidates to hold: look at the whole batch. Too few: lower, in growing strides.
        guess = overflow[0] != 0 ? guess_from_histogram(s, s.local_rows, 1.01 * s.config.k)
                                 : guess * (attempt == 0 ? 0.8F : 0.5F);
        if (guess < 1e-30F) guess = 0;
    }
}

}  // namespace

const Kind batch_topk = {.name = "batch_topk", .inference = Inference::threshold, .select = select};

}  // namespace strata::sae
