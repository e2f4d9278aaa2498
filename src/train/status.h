#pragma once
// How a run stands, from the files of its output folder alone: journal.jsonl, metrics.jsonl, logs/. Nothing
// is asked of the run, which may be at work, on another host, or dead. Half-written last lines are left
// aside.

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace strata::train {

enum class JobState { waiting, running, done };

struct JobStatus {
    std::string name, dataset;
    std::vector<std::string> saes;
    JobState state = JobState::waiting;
    std::int64_t group = -1;     // of ranks, that has begun it last; -1: none
    std::int64_t step = 0;       // the last one known
    double rows_per_second = 0;  // of the last logged step; 0: none is logged
};

// The last line of an SAE in metrics.jsonl.
struct SaeStatus {
    std::int64_t step = 0;
    double loss = 0, fvu = 0, l0 = 0, dead_fraction = 0;
};

struct RunStatus {
    std::int64_t steps = 0, batch_size = 0;  // of every job
    std::vector<JobStatus> jobs;
    std::map<std::string, SaeStatus> saes;
    bool stopped = false;               // it ended on request, and nothing has begun since
    std::string begun;                  // the time at which the latest session began
    std::string failed;                 // the time of the first error since, which ended it; empty: none
    std::int64_t last_written = 0;      // seconds since 1970: the newest of the files
    std::vector<std::string> warnings;  // and errors of all ranks' logs, by time, each with its rank

    std::int64_t count(JobState state) const;
    bool done() const { return count(JobState::done) == std::ssize(jobs); }
    double rows_per_second() const;  // of the running jobs together
    // Rows that all jobs still need, at the rate of those that run; nullopt: no rate is known.
    std::optional<double> seconds_left() const;
};

// UsageError if the folder has no journal, or one without jobs; RunError if that cannot be understood.
RunStatus read_status(const std::filesystem::path& output);

// `now`: seconds since 1970. A run that has written nothing for some minutes is said to be silent since when,
// not dead: steps may be long.
nlohmann::ordered_json to_json(const RunStatus& status, std::int64_t now);
std::string to_text(const RunStatus& status, std::int64_t now);

}  // namespace strata::train
