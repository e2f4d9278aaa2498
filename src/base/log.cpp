#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <fstream>
#include <string>

namespace strata {
namespace {

// The last line of a file, where there is one, may have been cut by a full disk.
void end_line(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    if (in.seekg(-1, std::ios::end) && in.get() != '\n') std::ofstream(path, std::ios::app) << '\n';
}

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
        end_line(path);
        auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string());
        file->set_formatter(std::make_unique<spdlog::pattern_formatter>("%Y-%m-%dT%H:%M:%SZ %l: %v",
                                                                        spdlog::pattern_time_type::utc));
        // What cannot be written later, on a full disk say, is told once, on the screen.
        spdlog::default_logger()->set_error_handler([file, path](const std::string& why) {
            if (file->level() == spdlog::level::off) return;
            file->set_level(spdlog::level::off);
            log::warn("{}: the log cannot be written any more: {}", path.string(), why);
        });
        spdlog::default_logger()->sinks().push_back(std::move(file));
    } catch (const spdlog::spdlog_ex& error) {
        log::warn("{}: the log is not kept: {}", path.string(), error.what());
    }
}

}  // namespace strata
