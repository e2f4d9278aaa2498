#include "suite/suite.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "base/error.h"

namespace strata::suite {

std::vector<Job> jobs_of(const Config& config, const std::vector<data::Dataset>& datasets,
                         std::int64_t saes_per_job) {
    std::vector<Job> jobs;
    const std::vector<std::string> names = names_of(config.saes);
    const std::int64_t saes = std::ssize(names);
    const std::int64_t parts = (saes + saes_per_job - 1) / saes_per_job;
    std::set<std::string> taken;
    for (const data::Dataset& dataset : datasets) {
        std::string prefix = dataset.name;
        std::ranges::replace(prefix, '/', '.');
        for (std::int64_t part = 0; part < parts; ++part) {
            Job job{parts == 1 ? prefix : fmt::format("{}.{}", prefix, part + 1), dataset, {}, {}};
            for (std::int64_t s = part * saes / parts; s < (part + 1) * saes / parts; ++s) {
                job.saes.push_back(config.saes[static_cast<std::size_t>(s)]);
                job.names.push_back(prefix + "." + names[static_cast<std::size_t>(s)]);
            }
            if (!taken.insert(job.name).second)
                refuse(
                    "data.datasets: two jobs of this run would be named '{}'; datasets whose names differ "
                    "only "
                    "in '/' and '.' need runs of their own",
                    job.name);
            jobs.push_back(std::move(job));
        }
    }
    return jobs;
}

std::vector<data::Dataset> datasets_of_several(const std::vector<Job>& jobs) {
    std::vector<data::Dataset> several;
    for (std::size_t i = 1; i < jobs.size(); ++i)  // a dataset's jobs follow each other
        if (jobs[i].dataset.name == jobs[i - 1].dataset.name &&
            (several.empty() || several.back().name != jobs[i].dataset.name))
            several.push_back(jobs[i].dataset);
    return several;
}

double cost_of(const Job& job) {
    double latents = 0;
    for (const SaeConfig& sae : job.saes) latents += static_cast<double>(sae.width);
    return latents * static_cast<double>(job.dataset.n);
}

std::vector<std::size_t> order_of(const std::vector<Job>& jobs) {
    std::vector<std::size_t> order(jobs.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, std::greater<>(), [&](std::size_t i) { return cost_of(jobs[i]); });
    return order;
}

}  // namespace strata::suite
