#include <cstdlib>
#include <regex>

#include "config/config.h"

namespace strata {

std::optional<std::int64_t> seconds_in(std::string_view text) {
    // So few digits that no time point overflows. Hours and minutes are bounded where something stands before
    // them.
    static const std::regex form(
        R"((?:(\d{1,9})|(?:(?:(\d{1,4})-([01]?\d|2[0-3])|(\d{1,5})):([0-5]?\d)|(\d{1,6})):([0-5]?\d)))");
    std::cmatch found;
    if (!std::regex_match(text.data(), text.data() + text.size(), found, form)) return std::nullopt;
    const auto number = [&](std::size_t group) {
        return found[group].matched ? std::stoll(found[group]) : 0LL;
    };
    const std::int64_t hours = 24 * number(2) + number(3) + number(4);
    return number(1) + 60 * (60 * hours + number(5) + number(6)) + number(7);
}

std::optional<std::chrono::system_clock::time_point> end_of_run(const std::string& time_limit,
                                                                std::chrono::system_clock::time_point start) {
    if (time_limit == "auto") {
        const char* end = std::getenv("SLURM_JOB_END_TIME");
        const long long seconds = end != nullptr ? std::strtoll(end, nullptr, 10) : 0;
        if (seconds <= 0) return std::nullopt;
        return std::chrono::system_clock::from_time_t(seconds);
    }
    const std::int64_t seconds = seconds_in(time_limit).value_or(0);
    if (seconds == 0) return std::nullopt;
    return start + std::chrono::seconds(seconds);
}

}  // namespace strata
