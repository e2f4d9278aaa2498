#include "train/finite.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/error.h"

namespace strata::train {
namespace {

constexpr std::array<const char*, 6> names = {"W_enc", "W_dec", "b_enc", "b_dec", "the kind's own parameters",
                                              "W_skip"};

// The first tensor of which some rank's part is not finite; names.size(): none.
std::size_t first_spoilt(Workbench& bench, const device::Tensors& t) {
    const Slice slice = bench.replicas.updated(t.width);
    const auto count = static_cast<std::size_t>((slice.last - slice.first) * t.n);
    std::array<std::span<float>, names.size()> tensors = {std::span(t.enc(slice.first), count),
                                                          std::span(t.dec(slice.first), count)};
    std::ranges::copy(t.small(), tensors.begin() + 2);
    std::array<double, names.size()> norms{};
    bench.device.square_norms(tensors, norms);
    std::array<std::uint32_t, 1> spoilt = {0};
    for (std::size_t i = 0; i < norms.size(); ++i)
        if (!std::isfinite(norms[i])) spoilt[0] |= 1U << i;
    bench.comm().any(spoilt);
    std::size_t i = 0;
    while (i < names.size() && ((spoilt[0] >> i) & 1U) == 0) ++i;
    return i;
}

}  // namespace

void fail_not_finite(Workbench& bench, const TrainedSae& sae, const StepReport& report, std::int64_t step,
                     double lr) {
    const std::uint64_t mine = std::isfinite(report.sums.squared_error) ? 0 : 1;
    std::vector<std::uint64_t> all(static_cast<std::size_t>(bench.comm().size()));
    bench.comm().gather({&mine, 1}, all);
    const auto culprit = std::ranges::find(all, 1U);
    const std::size_t tensor = first_spoilt(bench, bench.gradient);
    fail(
        "{}: the gradient{} of step {} is not finite (norm {}){}; lower optimizer.lr (now {:.3g}), or look "
        "for extreme "
        "rows with `strata data check`; the last checkpoint is as it was",
        sae.name, tensor < names.size() ? fmt::format(" of {}", names[tensor]) : "", step + 1,
        report.gradient_norm,
        culprit == all.end() ? std::string()
                             : fmt::format(", nor the loss of rank {}'s rows", culprit - all.begin()),
        lr);
}

void check_finite(Workbench& bench, const TrainedSae& sae, std::int64_t step) {
    for (const auto& [what, tensors] :
         {std::pair{"parameters", &sae.parameters}, std::pair{"first moments", &sae.first},
          std::pair{"second moments", &sae.second}})
        if (const std::size_t tensor = first_spoilt(bench, *tensors); tensor < names.size())
            fail(
                "{}: {} of the {} after step {} is not finite; lower optimizer.lr; the last checkpoint is as "
                "it was",
                sae.name, names[tensor], what, step);
}

}  // namespace strata::train
