#pragma once
// How ranks and SAEs are divided: the ranks into groups, the SAEs of a dataset into jobs.

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "config/config.h"
#include "data/dataset.h"

namespace strata::suite {

struct Layout {
    int groups = 1;
    std::int64_t saes_per_job = 1;
    std::int64_t micro_batch = 0;  // rows that a GPU holds at a time; 0: all of its batch
    bool operator==(const Layout&) const = default;
};

// Ranks [first, last) of group g of `groups`: consecutive ones, the numbers as even as can be.
struct Ranks {
    int first = 0, last = 0;
    int size() const { return last - first; }
};
Ranks ranks_of(int group, int groups, int ranks);
int group_of(int rank, int groups, int ranks);

// How much faster r ranks train one job than one: r^0.85, which is 1.8 for two.
double speed_of(int ranks);

// A job's turn.
struct Turn {
    std::size_t job = 0;
    int group = 0;
    double start = 0, end = 0;
};
// Jobs handed out in this order, each to the group that is free first; `length(job, group)` in any unit.
std::vector<Turn> turns_of(const std::vector<std::size_t>& order, int groups,
                           const std::function<double(std::size_t, int)>& length);

// When the last group ends, if each takes the longest job left whenever it is free, in the unit of cost_of()
// for a group of one rank.
double makespan(std::vector<double> costs, int groups, int ranks);

// The division that ends first; but SAEs stay together on one stream, which is then read for all of them at
// once, unless another division ends a tenth earlier, and of divisions that end alike the one with the fewest
// groups is taken. What the configuration says is taken as given; `fits` says whether a division has room in
// memory; nothing where none has. UsageError where the configuration's numbers do not go with `ranks`.
std::optional<Layout> layout_of(const Config& config, const std::vector<data::Dataset>& datasets, int ranks,
                                const std::function<bool(const Layout&)>& fits);

}  // namespace strata::suite
