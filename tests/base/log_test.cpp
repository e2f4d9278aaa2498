#include "base/log.h"

#include <gmock/gmock.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <fstream>

#include "base/file.h"
#include "support/folder.h"

namespace strata {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

// What is on the screen, logged by `call`.
template <typename Call>
std::string screen_of(int rank, bool quiet, const Call& call) {
    const auto before = spdlog::default_logger();
    testing::internal::CaptureStderr();
    start_log(rank, 2, quiet);
    call();
    spdlog::set_default_logger(before);
    return testing::internal::GetCapturedStderr();
}

TEST(Log, EveryRankKeepsAllOfItsOwnAndTheScreenIsRankZeros) {
    const test::Folder folder;
    for (const int rank : {0, 1})
        for (const bool quiet : {false, true}) {
            const std::string screen = screen_of(rank, quiet, [&] {
                log::info("before the folder");
                keep_log(folder / "logs", rank);
                log::info("some news");
                log::warn("a warning");
                log::debug("a detail");
            });
            EXPECT_THAT(screen, HasSubstr(" rank " + std::to_string(rank) + "] warning: a warning"));
            EXPECT_EQ(screen.find("some news") == std::string::npos, rank > 0 || quiet);
        }
    for (const int rank : {0, 1})
        EXPECT_THAT(read_file(folder / "logs" / ("rank-" + std::to_string(rank) + ".log")),
                    MatchesRegex("(....-..-..T..:..:..[.]...Z info: some news\n"
                                 "....-..-..T..:..:..[.]...Z warning: a warning\n){2}"))
            << "added to, not begun anew";
}

// So that the two can be put in order.
TEST(Log, ItsTimesHaveTheFormOfThoseInItsFiles) {
    EXPECT_THAT(log_time(),
                MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z"));
}

TEST(Log, ALineThatWasCutStaysByItself) {
    const test::Folder folder;
    std::filesystem::create_directory(folder / "logs");
    std::ofstream(folder / "logs/rank-0.log") << "whole\nhal";
    screen_of(0, true, [&] {
        keep_log(folder / "logs", 0);
        log::warn("goes on");
    });
    EXPECT_THAT(read_file(folder / "logs/rank-0.log"), MatchesRegex("whole\nhal\n.* warning: goes on\n"));
}

TEST(Log, WhatCannotBeKeptIsAWarning) {
    const test::Folder folder;
    std::ofstream(folder / "logs") << "a file";
    const std::string screen = screen_of(0, true, [&] {
        keep_log(folder / "logs", 3);
        log::warn("goes on");
    });
    EXPECT_THAT(screen, HasSubstr("logs/rank-3.log: the log is not kept: "));
    EXPECT_THAT(screen, HasSubstr("warning: goes on"));
}

// Of a disk that is full for a while: a limit on the sizes of this process' files.
TEST(Log, GoesOnWhenThereIsRoomAgain) {
    const test::Folder folder;
    const auto before = std::signal(SIGXFSZ, SIG_IGN);
    const auto limit = [](rlim_t bytes) {
        rlimit limits{};
        getrlimit(RLIMIT_FSIZE, &limits);
        limits.rlim_cur = std::min(bytes, limits.rlim_max);
        setrlimit(RLIMIT_FSIZE, &limits);
    };
    const std::string screen = screen_of(0, true, [&] {
        keep_log(folder / "logs", 0);
        log::info(std::string(4000, 'x'));  // the limit is no limit to the screen, which is a file here
        limit(std::filesystem::file_size(folder / "logs/rank-0.log") + 10);
        log::info("cut");
        log::info("lost");
        limit(RLIM_INFINITY);
        log::info("after");
        log::info("last");
    });
    std::signal(SIGXFSZ, before);
    EXPECT_THAT(read_file(folder / "logs/rank-0.log"),
                MatchesRegex(".{24} info: x*\n.{10}\n.{24} info: after\n.{24} info: last\n"));
    EXPECT_THAT(screen, HasSubstr("rank-0.log: lines of the log are lost: "));
    EXPECT_EQ(screen.find("lost: "), screen.rfind("lost: ")) << "told once";
}

}  // namespace
}  // namespace strata
