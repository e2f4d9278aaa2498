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

std::vector<Turn> turns_of(const std::vector<std::size_t>& order, int groups,
                           const std::function<double(std::size_t, int)>& length) {
    using Free = std::pair<double, int>;  // when, and which group
    std::priority_queue<Free, std::vector<Free>, std::greater<>> free;
    for (int g = 0; g < groups; ++g) free.emplace(0.0, g);
    std::vector<Turn> turns;
    for (const std::size_t job : order) {
        const auto [at, group] = free.top();
        free.pop();
        turns.push_back({job, group, at, at + length(job, group)});
        free.emplace(turns.back().end, group);
    }
    return turns;
}

double makespan(std::vector<double> costs, int groups, int ranks) {
    std::ranges::sort(costs, std::greater<>());
    std::vector<std::size_t> order(costs.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    double end = 0;
    for (const Turn& turn : turns_of(order, groups, [&](std::size_t job, int group) {
             return costs[job] / speed_of(ranks_of(group, groups, ranks).size());
         }))
        end = std::max(end, turn.end);
    return end;
}

std::optional<Layout> layout_of(const Config& config, const std::vector<data::Dataset>& datasets, int ranks,
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
            const Layout layout{static_cast<int>(groups), *p, config.parallel.micro_batch.value_or(0)};
            const double end = makespan(costs, layout.groups, ranks);
            if ((of_these && end >= 0.99 * end_of_these) || !fits(layout)) continue;
            of_these = layout;
            end_of_these = end;
        }
        if (!of_these || (best && end_of_these >= 0.9 * earliest)) continue;
        best = of_these;
        earliest = end_of_these;
    }
    return best;
}

}  // namespace strata::suite
