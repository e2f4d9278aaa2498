#include "train/journal.h"

#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace strata::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

fs::path path_of(const fs::path& output) {
    return output / "journal.jsonl";
}

}  // namespace

std::optional<JournalStart> read_journal(const fs::path& output) {
    const fs::path path = path_of(output);
    if (!fs::exists(path)) return std::nullopt;
    std::istringstream lines(read_file(path));
    std::optional<JournalStart> start;
    std::size_t number = 0;
    for (std::string text; std::getline(lines, text);) {
        ++number;
        try {
            const ordered_json line = ordered_json::parse(text);
            const std::string event = line.at("event");
            if (event == "jobs") {
                if (!start) start.emplace();
                start->saes.clear();
                start->fingerprint = line.at("fingerprint");
                start->layout = {.saes_per_job = line.at("saes_per_job"),
                                 .micro_batch = line.value("micro_batch", std::int64_t{0})};
                for (const ordered_json& job : line.at("jobs")) start->saes.push_back(job.at("saes"));
            } else if (event == "done" && start) {
                start->done.insert(line.at("job").get<std::string>());
            }
        } catch (const nlohmann::json::exception& e) {
            fail("{}: line {} is not one of a journal ({}); the run cannot be continued from it",
                 path.string(), number, e.what());
        }
    }
    return start;
}

Journal::Journal(const fs::path& output, const Config& config, const std::vector<suite::Job>& jobs,
                 const suite::Layout& layout)
    : path_(path_of(output)) {
    if (fs::exists(path_)) text_ = read_file(path_);
    ordered_json list = ordered_json::array();
    for (const suite::Job& job : jobs)
        list.push_back({{"name", job.name}, {"dataset", job.dataset.name}, {"saes", job.names}});
    append({{"event", "jobs"},
            {"fingerprint", fingerprint(config)},
            {"saes_per_job", layout.saes_per_job},
            {"micro_batch", layout.micro_batch},
            {"steps", config.train.steps()},
            {"batch_size", config.train.batch_size},
            {"time", log_time()},
            {"jobs", list}});
}

void Journal::append(const ordered_json& line) {
    text_ += line.dump() + "\n";
    write_file(path_, text_);
}

void Journal::start(const std::string& job, int group, std::int64_t step) {
    append({{"event", "start"}, {"job", job}, {"group", group}, {"step", step}, {"time", log_time()}});
}

void Journal::done(const std::string& job) {
    append({{"event", "done"}, {"job", job}, {"time", log_time()}});
}

void Journal::stop() {
    append({{"event", "stop"}, {"time", log_time()}});
}

}  // namespace strata::train
