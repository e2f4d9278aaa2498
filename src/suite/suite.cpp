#include "suite/suite.h"

#include <algorithm>
#include <set>

#include "base/error.h"

namespace strata::suite {

std::vector<Job> jobs_of(const Config& config, const std::vector<data::Dataset>& datasets) {
    std::vector<Job> jobs;
    const std::vector<std::string> names = names_of(config.saes);
    std::set<std::string> taken;
    for (const data::Dataset& dataset : datasets) {
        Job job{dataset, config.saes, {}};
        std::string prefix = dataset.name;
        std::ranges::replace(prefix, '/', '.');
        for (const std::string& name : names) {
            job.names.push_back(prefix + "." + name);
            if (!taken.insert(job.names.back()).second)
                refuse(
                    "two SAEs of this run would be named '{}'; datasets whose names differ only in '/' and "
                    "'.' need "
                    "runs of their own",
                    job.names.back());
        }
        jobs.push_back(std::move(job));
    }
    return jobs;
}

}  // namespace strata::suite
