// Jobs handed out to groups, and what is written of them. Run at 1, 2, 3 and 4 ranks, each a group.

#include "train/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "comm/mpi.h"
#include "support/shared_folder.h"

namespace strata::train {
namespace {

std::vector<suite::Job> make_jobs(std::int64_t count) {
    std::vector<suite::Job> jobs;
    for (std::int64_t i = 0; i < count; ++i) {
        SaeConfig sae;
        sae.width = 8 + (i * 7) % count;  // all different
        suite::Job& job = jobs.emplace_back();
        job.name = "job" + std::to_string(i);
        job.dataset.name = job.name;
        job.dataset.n = 4;
        job.saes = {sae};
        job.names = {job.name + ".sae"};
    }
    return jobs;
}

std::vector<nlohmann::json> lines_of(const std::filesystem::path& path) {
    std::ifstream in(path);
    std::vector<nlohmann::json> lines;
    for (std::string text; std::getline(in, text);) lines.push_back(nlohmann::json::parse(text));
    return lines;
}

struct Output {
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    const std::unique_ptr<Communicator> mail = comm->duplicate();
    const test::SharedFolder folder{*comm};
    const std::filesystem::path output = folder / "";
    const Config config = [] {
        Config c;
        c.saes.emplace_back();
        return c;
    }();
    bool first() const { return comm->rank() == 0; }
    std::unique_ptr<Coordinator> coordinator(const std::vector<suite::Job>& jobs,
                                             const std::set<std::string>& done = {}) const {
        if (!first()) return nullptr;
        return std::make_unique<Coordinator>(output, jobs, done, Journal(output, config, jobs, {}),
                                             MetricsFile(output / "metrics.jsonl"));
    }
};

TEST(Coordinator, EveryJobIsDoneOnceByAnyGroupAndWrittenDown) {
    const Output out;
    const std::vector<suite::Job> jobs = make_jobs(23);
    const auto coordinator = out.coordinator(jobs);
    std::vector<std::uint64_t> times(jobs.size());
    {
        const CoordinatorThread thread(coordinator.get(), *out.mail);
        CoordinatorLine line(coordinator.get(), *out.mail, out.comm->rank());
        while (const auto job = line.next()) {
            ++times[*job];
            line.started(*job, 0);
            for (int step = 1; step <= 5; ++step)
                line.metrics(nlohmann::json({{"sae", jobs[*job].names[0]}, {"step", step}}).dump() + "\n");
            line.settle();
            line.done(*job, nlohmann::json::array({{{"sae", jobs[*job].names[0]}}}));
        }
        EXPECT_FALSE(line.stopping());
        out.comm->long_barrier();
    }
    out.comm->sum(std::span(times));
    EXPECT_THAT(times, testing::Each(1));
    if (!out.first()) return;
    EXPECT_TRUE(coordinator->finished());
    EXPECT_EQ(nlohmann::json::parse(read_file(out.output / "summary.json")).at("saes").size(), 23U);
    EXPECT_EQ(read_journal(out.output)->done.size(), 23U);
    std::map<std::string, std::vector<int>> steps;
    for (const nlohmann::json& line : lines_of(out.output / "metrics.jsonl"))
        steps[line.at("sae")].push_back(line.at("step"));
    EXPECT_EQ(steps.size(), 23U);
    for (const auto& [sae, of_sae] : steps) EXPECT_THAT(of_sae, testing::ElementsAre(1, 2, 3, 4, 5));
}

TEST(Coordinator, HandsOutTheMostCostlyJobFirst) {
    const Output out;
    const std::vector<suite::Job> jobs = make_jobs(9);
    const auto coordinator = out.coordinator(jobs, {"job3"});
    if (!out.first()) return;
    double before = 1e30;
    int count = 0;
    while (const auto job = coordinator->next()) {
        EXPECT_NE(*job, 3U);
        EXPECT_LE(suite::cost_of(jobs[*job]), before);
        before = suite::cost_of(jobs[*job]);
        ++count;
    }
    EXPECT_EQ(count, 8);
}

TEST(Coordinator, AStopOfOneGroupReachesAll) {
    const Output out;
    const std::vector<suite::Job> jobs = make_jobs(50);
    const auto coordinator = out.coordinator(jobs);
    {
        const CoordinatorThread thread(coordinator.get(), *out.mail);
        CoordinatorLine line(coordinator.get(), *out.mail, out.comm->rank());
        EXPECT_TRUE(line.next());
        out.comm->long_barrier();  // all have a job
        if (out.comm->rank() == out.comm->size() - 1) line.stop();
        while (out.comm->size() > 1 && out.comm->rank() < out.comm->size() - 1 && !line.stopping()) {
        }
        EXPECT_FALSE(line.next());
        out.comm->long_barrier();
    }
    if (!out.first()) return;
    EXPECT_FALSE(coordinator->finished());
    EXPECT_EQ(lines_of(out.output / "journal.jsonl").back().at("event"), "stop");
}

TEST(Journal, SaysWhatARunBeganWithAndWhatIsDone) {
    const Output out;
    if (!out.first()) return;
    const std::vector<suite::Job> jobs = make_jobs(3);
    EXPECT_FALSE(read_journal(out.output));
    Journal(out.output, out.config, jobs, {.saes_per_job = 7, .micro_batch = 24}).start("job1", 0, 40);
    Journal again(out.output, out.config, jobs, {.saes_per_job = 7, .micro_batch = 24});
    again.done("job1");
    again.stop();
    const auto found = read_journal(out.output);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->layout, (suite::Layout{.saes_per_job = 7, .micro_batch = 24}));
    EXPECT_EQ(found->fingerprint, fingerprint(out.config));
    EXPECT_THAT(found->saes,
                testing::ElementsAre(testing::ElementsAre("job0.sae"), testing::ElementsAre("job1.sae"),
                                     testing::ElementsAre("job2.sae")));
    EXPECT_THAT(found->done, testing::ElementsAre("job1"));
    write_file(out.output / "journal.jsonl", "{\"event\": 3}\n");
    EXPECT_THROW(read_journal(out.output), RunError);
}

TEST(Metrics, AreCutToWhatAResumedRunWillNotWriteAgain) {
    const Output out;
    if (!out.first()) return;
    const std::filesystem::path path = out.output / "metrics.jsonl";
    const std::string a1 = "{\"sae\":\"a\",\"step\":1}\n", a2 = "{\"sae\":\"a\",\"step\":2}\n",
                      b1 = "{\"sae\":\"b\",\"step\":1}\n", c1 = "{\"sae\":\"c\",\"step\":1}\n";
    keep_lines(path, {});  // there is none
    EXPECT_FALSE(std::filesystem::exists(path));
    write_file(path, a1 + b1 + c1 + a2 + "{\"sae\":\"b\",\"st");
    keep_lines(path, {{"a", 1}, {"b", 4}});
    EXPECT_EQ(read_file(path), a1 + b1);
    MetricsFile(path).append(a2);
    EXPECT_EQ(read_file(path), a1 + b1 + a2);
    write_file(path, "nonsense\n");
    EXPECT_THROW(keep_lines(path, {{"a", 1}}), RunError);
}

}  // namespace
}  // namespace strata::train
