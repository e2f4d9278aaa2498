#pragma once
// What a configuration asks for, as a list of jobs: a dataset, and SAEs that are trained together on its
// stream. Jobs are independent of each other; a group of ranks runs one at a time.

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/dataset.h"

namespace strata::suite {

struct Job {
    std::string name;  // of the dataset with '/' as '.'; where it has several jobs, with their number: `.2`
    data::Dataset dataset;
    std::vector<SaeConfig> saes;
    std::vector<std::string> names;  // of the SAEs: <dataset with '/' as '.'>.<names_of>
};

// In the order of the datasets, at most `saes_per_job` SAEs in each, a dataset's jobs as even as can be.
// UsageError if two SAEs would have the same name.
std::vector<Job> jobs_of(const Config& config, const std::vector<data::Dataset>& datasets,
                         std::int64_t saes_per_job);

// Those that several jobs train on: what groups may read side by side.
std::vector<data::Dataset> datasets_of_several(const std::vector<Job>& jobs);

// The floating-point work of a step, up to a factor that all jobs share.
double cost_of(const Job& job);

// Jobs as they are handed out: the most costly first, equal ones as they come.
std::vector<std::size_t> order_of(const std::vector<Job>& jobs);

}  // namespace strata::suite
