#include "base/log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <mutex>
#include <utility>

namespace strata {
namespace {

// The last line of a file, where there is one, may have been cut by a full disk.
bool ends_cut(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return in.seekg(-1, std::ios::end) && in.get() != '\n';
}

// Every line goes to the system at once, or, where that fails, is lost: none is kept for later, so that the
// file goes on with whole lines.
class LogFile final : public spdlog::sinks::base_sink<std::mutex> {
  public:
    explicit LogFile(const std::filesystem::path& path) : path_(path), cut_(ends_cut(path)) {
        std::error_code shows_below;
        std::filesystem::create_directories(path.parent_path(), shows_below);
        file_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (file_ < 0) throw spdlog::spdlog_ex("cannot open it for writing", errno);
    }
    ~LogFile() override { ::close(file_); }

  protected:
    void sink_it_(const spdlog::details::log_msg& message) override {
        spdlog::memory_buf_t line;
        if (cut_) line.push_back('\n');
        formatter_->format(message, line);
        const ssize_t written = ::write(file_, line.data(), line.size());
        if (written == static_cast<ssize_t>(line.size())) {
            cut_ = false;
            return;
        }
        const int why = written < 0 ? errno : ENOSPC;
        if (written > 0) cut_ = line[static_cast<std::size_t>(written) - 1] != '\n';
        throw spdlog::spdlog_ex(path_.string(), why);
    }
    void flush_() override {}

  private:
    std::filesystem::path path_;
    int file_ = -1;
    bool cut_;
};

}  // namespace

void start_log(int rank, int size, bool quiet) {
    auto screen = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
    const std::string who = size > 1 ? " rank " + std::to_string(rank) : "";
    screen->set_pattern("[%H:%M:%S" + who + "] %^%l%$: %v");
    screen->set_level(quiet || rank > 0 ? spdlog::level::warn : spdlog::level::info);
    auto logger = std::make_shared<spdlog::logger>("strata", std::move(screen));
    logger->set_level(spdlog::level::info);
    logger->flush_on(spdlog::level::info);
    spdlog::set_default_logger(std::move(logger));
}

void keep_log(const std::filesystem::path& folder, int rank) {
    const std::filesystem::path path = folder / ("rank-" + std::to_string(rank) + ".log");
    try {
        auto file = std::make_shared<LogFile>(path);
        file->set_formatter(std::make_unique<spdlog::pattern_formatter>("%Y-%m-%dT%H:%M:%S.%eZ %l: %v",
                                                                        spdlog::pattern_time_type::utc));
        // What cannot be written later, on a full disk say, is told once, on the screen.
        spdlog::default_logger()->set_error_handler([path, told = false](const std::string& why) mutable {
            if (std::exchange(told, true)) return;
            log::warn("{}: lines of the log are lost: {}", path.string(), why);
        });
        spdlog::default_logger()->sinks().push_back(std::move(file));
    } catch (const spdlog::spdlog_ex& error) {
        log::warn("{}: the log is not kept: {}", path.string(), error.what());
    }
}

std::string log_time() {
    using namespace std::chrono;
    const auto now = floor<milliseconds>(system_clock::now());
    const auto seconds = floor<std::chrono::seconds>(now);
    return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(system_clock::to_time_t(seconds)),
                       (now - seconds).count());
}

}  // namespace strata
