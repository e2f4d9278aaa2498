#include "train/status.h"

#include <gmock/gmock.h>
#include <utime.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "support/folder.h"

namespace strata::train {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr std::int64_t written = 1'700'000'000;  // 2023-11-14T22:13:20Z

// The output folder of a run with three jobs of 100 steps of 10 rows.
struct RunFolder {
    test::Folder folder;

    RunFolder() {
        std::filesystem::create_directories(folder / "logs");
        add("journal.jsonl",
            R"({"event":"jobs","jobs":[{"name":"r.1","dataset":"r/1","saes":["r.1.a","r.1.b"]},)"
            R"({"name":"r.2","dataset":"r/2","saes":["r.2.a"]},{"name":"r.3","dataset":"r/3","saes":["r.3.a"]}],)"
            R"("steps":100,"batch_size":10})"
            "\n");
    }

    void add(const std::string& file, const std::string& text) {
        std::ofstream(folder / file, std::ios::app) << text;
        const utimbuf times = {written, written};
        utime((folder / file).c_str(), &times);
    }
    void event(const std::string& fields) { add("journal.jsonl", "{\"event\":" + fields + "}\n"); }
    void start(const std::string& job, int group, int step) {
        event(fmt::format(R"("start","job":"{}","group":{},"step":{},"time":"2026-01-01T00:00:00Z")", job,
                          group, step));
    }
    void done(const std::string& job) { event(fmt::format(R"("done","job":"{}","time":"t")", job)); }
    void metrics(const std::string& sae, int step, double loss, double rate) {
        add("metrics.jsonl",
            fmt::format(R"({{"step":{},"sae":"{}","loss":{},"fvu":0.5,"l0":4.0,"dead_fraction":0.25,)"
                        R"("rows_per_second":{}}})"
                        "\n",
                        step, sae, loss, rate));
    }
    RunStatus status() const { return read_status(folder / ""); }
    std::vector<JobState> states() const {
        std::vector<JobState> all;
        for (const JobStatus& job : status().jobs) all.push_back(job.state);
        return all;
    }
};

constexpr auto waiting = JobState::waiting, running = JobState::running, done = JobState::done;

TEST(Status, FollowsARunThroughItsSessions) {
    RunFolder run;
    EXPECT_THAT(run.states(), ElementsAre(waiting, waiting, waiting));
    run.start("r.1", 0, 0);
    run.start("r.2", 1, 0);
    EXPECT_THAT(run.states(), ElementsAre(running, running, waiting));
    run.done("r.2");
    run.start("r.3", 1, 0);
    EXPECT_THAT(run.states(), ElementsAre(running, done, running));
    run.event(R"("stop","time":"t")");
    EXPECT_THAT(run.states(), ElementsAre(waiting, done, waiting));
    EXPECT_TRUE(run.status().stopped);
    EXPECT_THAT(to_text(run.status(), written + 100000),
                AllOf(HasSubstr("stopped: 1 jobs done, 0 running, 2 waiting\n"), HasSubstr("--resume"),
                      Not(HasSubstr("nothing has been written"))));
    run.start("r.3", 0, 40);
    EXPECT_FALSE(run.status().stopped);
    EXPECT_THAT(run.states(), ElementsAre(waiting, done, running));
    // Killed without a word; the group goes on with another.
    run.start("r.1", 0, 20);
    EXPECT_THAT(run.states(), ElementsAre(running, done, waiting));
    run.done("r.1");
    run.start("r.3", 0, 40);
    run.done("r.3");
    EXPECT_TRUE(run.status().done());
    EXPECT_THAT(to_text(run.status(), written + 100000),
                HasSubstr("done: 3 jobs done, 0 running, 0 waiting"));
}

TEST(Status, TellsRateTimeLeftAndLastLosses) {
    RunFolder run;
    run.start("r.1", 0, 0);
    EXPECT_FALSE(run.status().seconds_left());
    run.start("r.2", 1, 30);
    run.metrics("r.1.a", 10, 3.0, 50);
    run.metrics("r.1.b", 10, 2.0, 50);
    run.metrics("r.1.a", 20, 1.5, 60);
    run.metrics("r.2.a", 40, 0.125, 20);
    const RunStatus status = run.status();
    EXPECT_EQ(status.rows_per_second(), 80);
    EXPECT_EQ(status.seconds_left(), (80 + 60 + 100) * 10 / 80.0);
    EXPECT_EQ(status.saes.at("r.1.a").loss, 1.5);
    EXPECT_EQ(status.saes.at("r.1.b").loss, 2);
    EXPECT_THAT(to_text(status, written + 7),
                AllOf(HasSubstr("running: 0 jobs done, 2 running, 1 waiting\n80 rows/s, about 30 s left\n"),
                      HasSubstr("last written 2023-11-14T22:13:20Z\n"),
                      HasSubstr("\nr.2, group 1: step 40/100, 20 rows/s\n"
                                "  r.2.a: loss 0.1250, fvu 0.5000, L0 4.0, dead 25.00 %\n")));
    const auto json = to_json(status, written);
    EXPECT_EQ(json.at("state"), "running");
    EXPECT_EQ(json.at("seconds_left"), 30);
    EXPECT_EQ(json.at("jobs")[1].at("step"), 40);
    EXPECT_EQ(json.at("jobs")[2].at("state"), "waiting");
    EXPECT_EQ(json.at("saes").at("r.2.a").at("loss"), 0.125);
}

TEST(Status, SaysSinceWhenNothingWasWritten) {
    RunFolder run;
    run.start("r.1", 0, 0);
    EXPECT_THAT(to_text(run.status(), written + 299), Not(HasSubstr("nothing has been written")));
    EXPECT_THAT(to_text(run.status(), written + 7260),
                AllOf(HasSubstr("silent: "), HasSubstr("nothing has been written since 2023-11-14T22:13:20Z, "
                                                       "for 2 h 01 min: look whether it still runs\n")));
}

TEST(Status, TellsAtOnceOfAnErrorOfTheLatestSession) {
    RunFolder run;
    const auto session = [&](const char* time) {
        run.event(
            fmt::format(R"("jobs","jobs":[{{"name":"r.1","dataset":"r/1","saes":["r.1.a"]}}],"steps":100,)"
                        R"("batch_size":10,"time":"{}")",
                        time));
    };
    session("2026-01-01T00:00:05.000Z");
    run.start("r.1", 0, 0);
    run.add("logs/rank-1.log", "2026-01-01T00:00:04.999Z error: before it\n");
    EXPECT_EQ(to_json(run.status(), written).at("state"), "running");
    run.add("logs/rank-1.log", "2026-01-01T00:00:05.400Z warning: no end\n");
    EXPECT_EQ(to_json(run.status(), written).at("state"), "running");
    run.add("logs/rank-0.log", "2026-01-01T00:00:05.700Z error: the disk is full\n");
    EXPECT_THAT(run.states(), ElementsAre(waiting));
    EXPECT_THAT(to_text(run.status(), written + 100000),
                AllOf(HasSubstr("failed: 0 jobs done, 0 running, 1 waiting\n"),
                      HasSubstr("ended by an error at 2026-01-01T00:00:05.700Z, below; "),
                      HasSubstr("rank-0 error: the disk is full\n"), Not(HasSubstr("nothing has been"))));
    session("2026-01-01T00:00:06.000Z");
    run.start("r.1", 0, 50);
    EXPECT_EQ(to_json(run.status(), written).at("state"), "running");
    run.done("r.1");
    EXPECT_EQ(to_json(run.status(), written).at("state"), "done");
}

TEST(Status, ShowsTheLastWarningsOfAllRanks) {
    RunFolder run;
    for (int i = 0; i < 4; ++i) {
        run.add("logs/rank-0.log", fmt::format("2026-01-01T00:00:0{}Z info: news\n", 2 * i));
        run.add("logs/rank-0.log", fmt::format("2026-01-01T00:00:0{}Z warning: w{}\n", 2 * i, i));
        run.add("logs/rank-1.log", fmt::format("2026-01-01T00:00:0{}Z error: e{}\n", 2 * i + 1, i));
    }
    EXPECT_EQ(run.status().warnings.size(), 8);
    EXPECT_THAT(to_text(run.status(), written),
                AllOf(HasSubstr("8 warnings and errors in logs/, the last:\n"
                                "  2026-01-01T00:00:03Z rank-1 error: e1\n"
                                "  2026-01-01T00:00:04Z rank-0 warning: w2\n"),
                      Not(HasSubstr("w1")), Not(HasSubstr("news"))));
}

TEST(Status, LeavesHalfWrittenLinesAside) {
    RunFolder run;
    run.start("r.1", 0, 0);
    run.metrics("r.1.a", 10, 3.0, 50);
    run.add("metrics.jsonl", R"({"step":20,"sae":"r.1.a","lo)");
    run.add("journal.jsonl", R"({"event":"done","job":"r.1)");
    run.add("logs/rank-0.log", "2026-01-01T00:00:00Z warning: a thought that is not fin");
    EXPECT_THAT(run.states(), ElementsAre(running, waiting, waiting));
    EXPECT_EQ(run.status().saes.at("r.1.a").step, 10);
    EXPECT_TRUE(run.status().warnings.empty());
    run.add("journal.jsonl", "\n");  // a later session goes on behind what a crash had cut
    run.start("r.2", 0, 0);
    EXPECT_THAT(run.states(), ElementsAre(waiting, running, waiting));
}

TEST(Status, WhatIsNoRunIsRefused) {
    const test::Folder folder;
    EXPECT_THROW(read_status(folder / ""), UsageError);
    std::filesystem::create_directory(folder / "journal.jsonl");
    EXPECT_THROW(read_status(folder / ""), UsageError);
    std::filesystem::remove(folder / "journal.jsonl");
    std::ofstream(folder / "journal.jsonl") << "\n";  // else a run of no jobs, which would be done
    EXPECT_THROW(read_status(folder / ""), UsageError);
    std::ofstream(folder / "journal.jsonl") << "{\"event\":\"start\",\"job\":\"x\"}\n";
    EXPECT_THROW(read_status(folder / ""), RunError);
}

}  // namespace
}  // namespace strata::train
