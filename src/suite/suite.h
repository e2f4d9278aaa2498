#pragma once
// What a configuration asks for, as a list of jobs: one per dataset, with all SAEs that are trained on its
// stream. Jobs are independent of each other; a group of ranks runs one at a time.

#include <string>
#include <vector>

#include "config/config.h"
#include "data/dataset.h"

namespace strata::suite {

struct Job {
    data::Dataset dataset;
    std::vector<SaeConfig> saes;
    std::vector<std::string> names;  // of the SAEs: <dataset with '/' as '.'>.<names_of>
};

// In the order of the datasets. UsageError if two SAEs would have the same name.
std::vector<Job> jobs_of(const Config& config, const std::vector<data::Dataset>& datasets);

}  // namespace strata::suite
