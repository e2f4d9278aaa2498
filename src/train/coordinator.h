#pragma once
// Who trains what. Rank 0 of the run holds the jobs that are left; the first rank of every group asks for the
// next when it is free, and tells what becomes of it. Everything of the output folder that is not one job's
// own (journal, metrics, summary) rank 0 alone writes, from what it is told.
//
// Questions and answers are messages (Communicator::post), one JSON object each; rank 0's own group asks
// without one. A thread of rank 0 looks for messages every millisecond, so that no group waits longer, and
// groups need not be at the same place.

#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "suite/suite.h"
#include "train/journal.h"
#include "train/metrics.h"

namespace strata::train {

// What rank 0 knows, and does for the groups. Its functions may be called from any thread.
class Coordinator {
  public:
    // `done`: names of jobs that need no training any more.
    Coordinator(std::filesystem::path output, const std::vector<suite::Job>& jobs,
                const std::set<std::string>& done, Journal journal, MetricsFile metrics);

    // The job to train next, the most costly first; nothing where none is left, or the run is to stop.
    std::optional<std::size_t> next();
    void started(std::size_t job, int group, std::int64_t step);
    void metrics(const std::string& lines);
    void settle();
    // The SAEs are saved: their entries go into the summary, then the job is done.
    void done(std::size_t job, const nlohmann::json& entries);
    // A group has stopped on request: no job is handed out any more.
    void stop();
    bool stopping();
    bool finished();  // all jobs are done

  private:
    std::mutex mutex_;
    std::filesystem::path output_;
    const std::vector<suite::Job>& jobs_;
    Journal journal_;
    MetricsFile metrics_;
    std::vector<std::size_t> waiting_;  // the next last
    std::size_t done_;
    bool stopping_ = false;
};

// Answers the other groups' messages until it is destroyed; on rank 0, elsewhere and for a single group null.
// An error while answering ends all ranks.
class CoordinatorThread {
  public:
    CoordinatorThread(Coordinator* coordinator, Communicator& mail);
    ~CoordinatorThread();

  private:
    void run();
    Coordinator* coordinator_;
    Communicator& mail_;
    std::atomic<bool> ending_ = false;
    std::thread thread_;
};

// The first rank of a group speaks to the coordinator: directly on rank 0, elsewhere by `mail`.
class CoordinatorLine {
  public:
    CoordinatorLine(Coordinator* own, Communicator& mail, int group)
        : own_(own), mail_(mail), group_(group) {}

    std::optional<std::size_t> next();
    void started(std::size_t job, std::int64_t step);
    void metrics(const std::string& lines);
    void done(std::size_t job, const nlohmann::json& entries);
    void stop();
    // Whether some group has stopped on request. Asks nobody: what has come is looked through.
    bool stopping();
    // Returns when all metrics told so far are on the disk.
    void settle();

  private:
    void tell(const nlohmann::json& message);
    nlohmann::json ask(const nlohmann::json& message);
    Coordinator* own_;
    Communicator& mail_;
    int group_;
    bool stopping_ = false;
};

}  // namespace strata::train
