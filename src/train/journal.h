#pragma once
// OUTPUT/journal.jsonl: which jobs a run has and what became of them, one JSON object a line, written by the
// coordinator alone.
//   {"event": "jobs", "fingerprint": ..., "saes_per_job": P, "micro_batch": R, "steps": T, "batch_size": B,
//    "time": ..., "jobs": [{"name": ..., "dataset": ..., "saes": [...]}, ...]}      of every session first
//   {"event": "start", "job": NAME, "group": G, "step": S, "time": ...}
//   {"event": "done", "job": NAME, "time": ...}                        its SAEs and their summary are on disk
//   {"event": "stop", "time": ...}                                     on request; checkpoints are saved
// Times are those of the logs, log_time(). The file is replaced as a whole with every line: it is short, and
// so never cut off.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "config/config.h"
#include "suite/layout.h"
#include "suite/suite.h"

namespace strata::train {

struct JournalStart {
    std::string fingerprint;
    suite::Layout layout;                        // groups aside
    std::vector<std::vector<std::string>> saes;  // names, by job
    std::set<std::string> done;                  // names of jobs
    bool operator==(const JournalStart&) const = default;
};

// What a journal says; nothing where there is none yet. RunError where it cannot be understood.
std::optional<JournalStart> read_journal(const std::filesystem::path& output);

// Every line is on the disk when its function returns. RunError if it cannot be written.
class Journal {
  public:
    // A new session, of a journal that begins or one that is there.
    Journal(const std::filesystem::path& output, const Config& config, const std::vector<suite::Job>& jobs,
            const suite::Layout& layout);
    void start(const std::string& job, int group, std::int64_t step);
    void done(const std::string& job);
    void stop();

  private:
    void append(const nlohmann::ordered_json& line);
    std::filesystem::path path_;
    std::string text_;
};

}  // namespace strata::train
