#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <string>

namespace strata {

void start_log(int rank, int size, bool quiet) {
    auto logger =
        std::make_shared<spdlog::logger>("strata", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    const std::string who = size > 1 ? " rank " + std::to_string(rank) : "";
    logger->set_pattern("[%H:%M:%S" + who + "] %^%l%$: %v");
    logger->set_level(quiet || rank > 0 ? spdlog::level::warn : spdlog::level::info);
    logger->flush_on(spdlog::level::info);
    spdlog::set_default_logger(std::move(logger));
}

}  // namespace strata
