#include "train/status.h"

#include <fmt/chrono.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace strata::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t long_silence = 300;  // seconds
constexpr std::size_t warnings_shown = 5;

// Calls visit(line) for the lines that are complete, and notes when the file was written last.
void each_line(const fs::path& path, RunStatus& status,
               const std::function<void(const std::string&)>& visit) {
    std::ifstream in(path);
    struct stat file {};
    if (in && ::stat(path.c_str(), &file) == 0)
        status.last_written = std::max<std::int64_t>(status.last_written, file.st_mtime);
    for (std::string line; std::getline(in, line) && !in.eof();) visit(line);
}

// Lines that are no JSON were cut by a crash.
void each_object(const fs::path& path, RunStatus& status, const std::function<void(const json&)>& visit) {
    each_line(path, status, [&](const std::string& line) {
        const json object = json::parse(line, nullptr, false);
        if (!object.is_object()) return;
        try {
            visit(object);
        } catch (const json::exception& e) {
            fail("{}: cannot be understood ({}); was it written by another version of strata?\n  {}",
                 path.string(), e.what(), line);
        }
    });
}

JobStatus& job_named(RunStatus& status, const std::string& name) {
    const auto found = std::ranges::find(status.jobs, name, &JobStatus::name);
    if (found == status.jobs.end()) fail("journal.jsonl: job '{}' is not in its list of jobs", name);
    return *found;
}

void none_runs(RunStatus& status) {
    for (JobStatus& job : status.jobs)
        if (job.state == JobState::running) job.state = JobState::waiting;
}

void take_event(const json& event, RunStatus& status) {
    const std::string what = event.at("event");
    if (what == "jobs") {
        // At the beginning of a session; what is done stays done.
        std::vector<JobStatus> before;
        std::swap(before, status.jobs);
        status.steps = event.at("steps");
        status.batch_size = event.at("batch_size");
        for (const json& listed : event.at("jobs")) {
            JobStatus& job = status.jobs.emplace_back();
            const auto old =
                std::ranges::find(before, listed.at("name").get<std::string>(), &JobStatus::name);
            if (old != before.end()) job = *old;
            job.name = listed.at("name");
            job.dataset = listed.at("dataset");
            job.saes = listed.at("saes").get<std::vector<std::string>>();
        }
        none_runs(status);
        status.stopped = false;
        status.begun = event.value("time", "");
    } else if (what == "start") {
        JobStatus& job = job_named(status, event.at("job"));
        const std::int64_t group = event.at("group");
        // A group works on one job at a time: what it had begun before, it lost.
        for (JobStatus& other : status.jobs)
            if (other.state == JobState::running && other.group == group) other.state = JobState::waiting;
        job.state = JobState::running;
        job.group = group;
        job.step = event.at("step");
        status.stopped = false;
    } else if (what == "done") {
        JobStatus& job = job_named(status, event.at("job"));
        job.state = JobState::done;
        job.step = status.steps;
    } else if (what == "stop") {
        none_runs(status);
        status.stopped = true;
    }
}

void take_metrics(const json& line, RunStatus& status) {
    const auto number = [&](const char* name) {
        return line.at(name).is_null() ? std::nan("") : line.at(name).get<double>();
    };
    const std::string name = line.at("sae");
    SaeStatus& sae = status.saes[name];
    sae = {line.at("step"), number("loss"), number("fvu"), number("l0"), number("dead_fraction")};
    for (JobStatus& job : status.jobs) {
        if (std::ranges::find(job.saes, name) == job.saes.end()) continue;
        job.step = std::max(job.step, sae.step);
        job.rows_per_second = number("rows_per_second");
    }
}

void take_log(const fs::path& path, RunStatus& status) {
    const std::string rank = path.stem().string();
    each_line(path, status, [&](const std::string& line) {
        // TIME level: message
        const std::size_t level = line.find(' ') + 1;
        const bool error = line.compare(level, 7, "error: ") == 0;
        if (line.compare(level, 9, "warning: ") != 0 && !error) return;
        // Every error ends a run. Times of one form are in the order of their letters.
        const std::string time = line.substr(0, level - 1);
        if (error && time > status.begun && (status.failed.empty() || time < status.failed))
            status.failed = time;
        status.warnings.push_back(fmt::format("{} {}", time, rank + " " + line.substr(level)));
    });
}

std::string time_of(std::int64_t seconds) {
    return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(seconds)));
}

std::string duration(double seconds) {
    const auto s = static_cast<std::int64_t>(seconds);
    if (s < 120) return fmt::format("{} s", s);
    if (s < 7200) return fmt::format("{} min", s / 60);
    return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
}

const char* name_of(JobState state) {
    return state == JobState::done ? "done" : state == JobState::running ? "running" : "waiting";
}

bool silent(const RunStatus& status, std::int64_t now) {
    return !status.done() && !status.stopped && status.failed.empty() &&
           now - status.last_written >= long_silence;
}

const char* state_of(const RunStatus& status, std::int64_t now) {
    return status.done()            ? "done"
           : !status.failed.empty() ? "failed"
           : status.stopped         ? "stopped"
           : silent(status, now)    ? "silent"
                                    : "running";
}

}  // namespace

std::int64_t RunStatus::count(JobState state) const {
    return std::ranges::count(jobs, state, &JobStatus::state);
}

double RunStatus::rows_per_second() const {
    double rate = 0;
    for (const JobStatus& job : jobs)
        if (job.state == JobState::running) rate += job.rows_per_second;
    return rate;
}

std::optional<double> RunStatus::seconds_left() const {
    const double rate = rows_per_second();
    if (rate <= 0) return std::nullopt;
    double rows = 0;
    for (const JobStatus& job : jobs) rows += static_cast<double>((steps - job.step) * batch_size);
    return rows / rate;
}

RunStatus read_status(const fs::path& output) {
    const fs::path journal = output / "journal.jsonl";
    if (!fs::exists(journal))
        refuse("{}: there is no journal.jsonl; name the output folder (run.output) of a run that has begun",
               output.string());
    RunStatus status;
    each_object(journal, status, [&](const json& event) { take_event(event, status); });
    if (status.jobs.empty())
        refuse(
            "{}: cannot be read, or names no jobs; name the output folder (run.output) of a run that has "
            "begun",
            journal.string());
    each_object(output / "metrics.jsonl", status, [&](const json& line) { take_metrics(line, status); });
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(output / "logs", none))
        if (entry.path().extension() == ".log") take_log(entry.path(), status);
    std::ranges::stable_sort(status.warnings);  // they begin with the time
    if (status.done()) status.failed.clear();
    if (!status.failed.empty()) none_runs(status);
    return status;
}

nlohmann::ordered_json to_json(const RunStatus& status, std::int64_t now) {
    nlohmann::ordered_json result = {{"state", state_of(status, now)},
                                     {"done", status.count(JobState::done)},
                                     {"running", status.count(JobState::running)},
                                     {"waiting", status.count(JobState::waiting)},
                                     {"steps", status.steps},
                                     {"batch_size", status.batch_size},
                                     {"rows_per_second", status.rows_per_second()},
                                     {"last_written", time_of(status.last_written)}};
    const auto left = status.seconds_left();
    result["seconds_left"] = left ? nlohmann::ordered_json(*left) : nlohmann::ordered_json();
    result["jobs"] = nlohmann::ordered_json::array();
    for (const JobStatus& job : status.jobs)
        result["jobs"].push_back({{"name", job.name},
                                  {"dataset", job.dataset},
                                  {"saes", job.saes},
                                  {"state", name_of(job.state)},
                                  {"group", job.group},
                                  {"step", job.step},
                                  {"rows_per_second", job.rows_per_second}});
    result["saes"] = nlohmann::ordered_json::object();
    for (const auto& [name, sae] : status.saes)
        result["saes"][name] = {{"step", sae.step},
                                {"loss", sae.loss},
                                {"fvu", sae.fvu},
                                {"l0", sae.l0},
                                {"dead_fraction", sae.dead_fraction}};
    result["warnings"] = status.warnings;
    return result;
}

std::string to_text(const RunStatus& status, std::int64_t now) {
    std::string text = fmt::format("{}: {} jobs done, {} running, {} waiting\n", state_of(status, now),
                                   status.count(JobState::done), status.count(JobState::running),
                                   status.count(JobState::waiting));
    if (const auto left = status.seconds_left())
        text += fmt::format("{:.0f} rows/s, about {} left\n", status.rows_per_second(), duration(*left));
    if (!status.failed.empty())
        text += fmt::format("ended by an error at {}, below; the line that began it goes on with --resume\n",
                            status.failed);
    else if (status.stopped && !status.done())
        text += "stopped on request; the line that began it goes on with --resume\n";
    if (silent(status, now))
        text += fmt::format("nothing has been written since {}, for {}: look whether it still runs\n",
                            time_of(status.last_written),
                            duration(static_cast<double>(now - status.last_written)));
    else
        text += fmt::format("last written {}\n", time_of(status.last_written));
    for (const JobStatus& job : status.jobs) {
        if (job.state != JobState::running) continue;
        text += fmt::format("\n{}, group {}: step {}/{}, {:.0f} rows/s\n", job.name, job.group, job.step,
                            status.steps, job.rows_per_second);
        for (const std::string& name : job.saes)
            if (const auto sae = status.saes.find(name); sae != status.saes.end())
                text += fmt::format("  {}: loss {:.4f}, fvu {:.4f}, L0 {:.1f}, dead {:.2f} %\n", name,
                                    sae->second.loss, sae->second.fvu, sae->second.l0,
                                    100 * sae->second.dead_fraction);
    }
    if (status.warnings.empty()) return text;
    const std::size_t shown = std::min(status.warnings.size(), warnings_shown);
    text += fmt::format("\n{} warnings and errors in logs/, the last:\n", status.warnings.size());
    for (std::size_t i = status.warnings.size() - shown; i < status.warnings.size(); ++i)
        text += "  " + status.warnings[i] + "\n";
    return text;
}

}  // namespace strata::train
