#include "suite/layout.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <queue>
#include <set>

#include "base/error.h"
#include "suite/suite.h"

namespace strata::suite {
namespace {

// most, most / 2, most / 3, ... rounded up, down to 1: a square root of numbers, which is enough to choose
// from.
std::set<std::int64_t> shares_of(std::int64_t most) {
    std::set<std::int64_t> shares;
    for (std::int64_t parts = 1; parts <= most; ++parts) shares.insert((most + parts - 1) / parts);
    return shares;
}

std::set<std::int64_t> groups_to_try(const ParallelConfig& parallel, std::int64_t ranks) {
    if (parallel.groups) return {*parallel.groups};
    if (parallel.data) return {ranks / *parallel.data};
    return shares_of(ranks);
}

void check(const ParallelConfig& parallel, int ranks) {
    const std::string started = fmt::format("{} rank{} started", ranks, ranks == 1 ? " is" : "s are");
    if (parallel.groups.value_or(1) > ranks)
        refuse("parallel.groups: {} groups asked for, {}; start at least as many ranks, or leave it at auto",
               *parallel.groups, started);
    if (!parallel.data) return;
    if (ranks % *parallel.data != 0)
        refuse(
            "parallel.data: groups of {} ranks asked for, {}; start a multiple of as many, or leave it at "
            "auto",
            *parallel.data, started);
    if (parallel.groups && *parallel.groups * *parallel.data != ranks)
        refuse("parallel: groups {} x data {} are {} ranks, {}; leave one of the two at auto",
               *parallel.groups, *parallel.data, *parallel.groups * *parallel.data, started);
}

}  // namespace

Ranks ranks_of(int group, int groups, int ranks) {
    return {group * ranks / groups, (group + 1) * ranks / groups};
}

int group_of(int rank, int groups, int ranks) {
    return ((rank + 1) * groups - 1) / ranks;
}

double speed_of(int ranks) {
    return std::pow(ranks, 0.85);
}

double makespan(std::vector<double> costs, int groups, int ranks) {
    std::ranges::sort(costs, std::greater<>());
    using Free = std::pair<double, double>;  // when, and the speed of the group
    std::priority_queue<Free, std::vector<Free>, std::greater<>> free;
    for (int g = 0; g < groups; ++g) free.emplace(0.0, speed_of(ranks_of(g, groups, ranks).size()));
    double end = 0;
    for (const double cost : costs) {
        const auto [at, speed] = free.top();
        free.pop();
        free.emplace(at + cost / speed, speed);
        end = std::max(end, at + cost / speed);
    }
    return end;
}

Layout layout_of(const Config& config, const std::vector<data::Dataset>& datasets, int ranks,
                 const std::function<bool(const Layout&)>& fits) {
    check(config.parallel, ranks);
    const std::int64_t saes = std::ssize(config.saes);
    const std::set<std::int64_t> together = config.parallel.saes_per_job
                                                ? std::set{std::min(*config.parallel.saes_per_job, saes)}
                                                : shares_of(saes);
    std::optional<Layout> best;
    double earliest = 0;
    for (auto p = together.rbegin(); p != together.rend(); ++p) {
        std::vector<double> costs;
        for (const Job& job : jobs_of(config, datasets, *p)) costs.push_back(cost_of(job));
        std::optional<Layout> of_these;
        double end_of_these = 0;
        for (const std::int64_t groups : groups_to_try(config.parallel, ranks)) {
            const Layout layout{static_cast<int>(groups), *p};
            const double end = makespan(costs, layout.groups, ranks);
            if ((of_these && end >= 0.99 * end_of_these) || !fits(layout)) continue;
            of_these = layout;
            end_of_these = end;
        }
        if (!of_these || (best && end_of_these >= 0.9 * earliest)) continue;
        best = of_these;
        earliest = end_of_these;
    }
    if (!best)
        refuse(
            "no division of {} ranks into groups has room in memory for its jobs; give more memory or hosts, "
            "or make sae.width or data.shuffle_rows smaller",
            ranks);
    return *best;
}

}  // namespace strata::suite
