// Bytes and times of a step, against sums made by hand from made-up rates.

#include "suite/predict.h"

#include <gtest/gtest.h>

namespace strata::suite {
namespace {

Job job_of(const std::vector<std::int64_t>& widths) {
    Job job;
    job.dataset.name = "resid_post/0";
    job.dataset.n = 100;
    job.dataset.rows = 1000;
    job.dataset.parts.resize(2);
    job.dataset.parts[0].rows = 400;
    job.dataset.parts[0].type = data::Type::float16;
    job.dataset.parts[1].rows = 600;
    job.dataset.parts[1].type = data::Type::float32;
    for (const std::int64_t width : widths) job.saes.emplace_back().width = width;
    return job;
}

TEST(Traffic, IsNoneOfARankAlone) {
    const Traffic traffic = traffic_of(job_of({1000}), {}, 512);
    EXPECT_EQ(traffic.shared, 0);
    EXPECT_EQ(traffic.sent, 0);
}

TEST(Traffic, OfAHostIsItsBatchAndBetweenHostsARingOfEachSlice) {
    const double matrices = 8 * 100 * 1000;
    const Traffic host = traffic_of(job_of({1000}), {.ranks = 2, .on_host = 2, .sharing = 2}, 512);
    EXPECT_EQ(host.shared, 512 * (2 * 8 * 100 + 24 * SaeConfig{}.k));
    EXPECT_EQ(host.sent, 0);
    // A residual for each of matryoshka's five prefixes.
    Job nested = job_of({1000});
    nested.saes.front().kind = "matryoshka";
    EXPECT_EQ(traffic_of(nested, {.ranks = 2, .on_host = 2, .sharing = 2}, 512).shared,
              512 * (6 * 8 * 100 + 24 * SaeConfig{}.k));
    // 2 ranks on each of 4 hosts.
    const Traffic hosts =
        traffic_of(job_of({1000}), {.ranks = 8, .on_host = 2, .hosts = 4, .sharing = 2}, 512);
    EXPECT_DOUBLE_EQ(hosts.sent, 2 * 3.0 / 4 * matrices);
    // 3 ranks on 2 hosts, each by itself.
    EXPECT_DOUBLE_EQ(traffic_of(job_of({1000}), {.ranks = 3, .on_host = 2, .hosts = 2}, 512).sent,
                     2 * 2.0 / 3 * matrices);
}

TEST(RowBytes, AreThoseOfTheFilesAndTheTarget) {
    Job job = job_of({1000});
    EXPECT_DOUBLE_EQ(row_bytes(job.dataset), 100 * (0.4 * 2 + 0.6 * 4));
    job.dataset.target = std::make_shared<data::Dataset>(job.dataset);
    EXPECT_DOUBLE_EQ(row_bytes(job.dataset), 200 * (0.4 * 2 + 0.6 * 4));
}

TEST(StepSeconds, AddUpSaesReadingAndExchange) {
    Config config;
    config.train.batch_size = 800;
    Rates rates;
    rates.sae_seconds = [](const Job&, const SaeConfig& sae, std::int64_t rows) {
        return static_cast<double>(sae.width * rows) * 1e-6;
    };
    rates.read_seconds = [](const data::Dataset&, std::int64_t rows) {
        return 1e-4 * static_cast<double>(rows);
    };
    rates.memory = 1e9;
    rates.link = 1e8;
    const Job job = job_of({1000, 2000});
    // One rank with all four cores: reading takes one core of them.
    EXPECT_DOUBLE_EQ(step_seconds(job, config, {.threads = 4}, 4, rates), 2.4 + 0.08 / 4);
    // One of four such ranks: a quarter of the cores.
    EXPECT_DOUBLE_EQ(step_seconds(job, config, {}, 4, rates), 4 * 2.4 + 0.08);
    // Two ranks on each of two hosts of two cores: half of the rows on each host.
    const Place place{.ranks = 4, .on_host = 2, .hosts = 2, .sharing = 2};
    const double matrices = 8 * 100 * 3000;
    EXPECT_DOUBLE_EQ(
        step_seconds(job, config, place, 2, rates),
        1.2 + 400 * 2 * (2 * 8 * 100 + 24 * SaeConfig{}.k) / 1e9 + 2 * 0.5 * matrices / 1e8 + 0.04 / 2);
    // No faster than its rows are read.
    rates.sae_seconds = [](const Job&, const SaeConfig&, std::int64_t) { return 0.0; };
    EXPECT_DOUBLE_EQ(step_seconds(job, config, {.threads = 4}, 4, rates), 0.08);
}

TEST(SaeSeconds, GrowWithRowsWidthAndCodes) {
    const Job job = job_of({1000});
    SaeConfig sae = job.saes.front();
    sae.k = 10;
    const double product = 2.0 * 50 * 100 * 1000, codes = 15 * 8.0 * 50 * 100 * 10;
    EXPECT_DOUBLE_EQ(sae_seconds(job, sae, 50, 1e9, 1e9),
                     (product + codes) / 1e9 + 17 * 4 * 100 * 1000 / 1e9);
}

TEST(Active, IsWhatTheKindAimsAt) {
    SaeConfig sae;
    sae.k = 20;
    EXPECT_EQ(active_of(sae), 20);
    sae.kind = "jumprelu";
    EXPECT_EQ(active_of(sae), 64);
    sae.l0_target = 30;
    EXPECT_EQ(active_of(sae), 30);
}

}  // namespace
}  // namespace strata::suite
