#include "data/synth.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "data/files.h"

namespace strata::data {
namespace {

using testing::HasSubstr;

TEST(Synth, RowsDependOnSeedAndIndexAlone) {
    SynthConfig config;
    config.n = 16;
    const Truth truth = make_truth(config);
    std::vector<float> whole(1000 * 16);
    make_rows(config, truth, 0, whole);
    for (std::int64_t first = 0, step = 1; first < 1000; first += step, step = step % 37 + 5) {
        std::vector<float> some(static_cast<std::size_t>(std::min(step, 1000 - first) * 16));
        make_rows(config, truth, first, some);
        ASSERT_TRUE(std::ranges::equal(
            some, std::span(whole).subspan(static_cast<std::size_t>(first * 16), some.size())));
    }
    config.seed = 1;
    std::vector<float> other(1000 * 16);
    make_rows(config, make_truth(config), 0, other);
    EXPECT_NE(other, whole);
}

TEST(Synth, FeaturesFireAsOftenAsTheyShould) {
    SynthConfig config;
    config.n = 8;
    config.features = 64;
    config.active = 5;
    config.children = 0.125;
    const Truth truth = make_truth(config);
    EXPECT_NEAR(std::accumulate(truth.probabilities.begin(), truth.probabilities.end(), 0.0), 5, 1e-9);
    constexpr std::int64_t rows = 40000;
    std::vector<float> out(rows * 8);
    std::vector<std::uint64_t> fired(64);
    make_rows(config, truth, 0, out, fired);
    for (std::size_t i = 0; i < 64; ++i) {
        const double p = truth.probabilities[i];
        EXPECT_NEAR(static_cast<double>(fired[i]) / rows, p, 5 * std::sqrt(p / rows)) << i;
        double squared = 0;
        for (std::size_t j = 0; j < 8; ++j)
            squared += static_cast<double>(truth.directions[i * 8 + j]) * truth.directions[i * 8 + j];
        EXPECT_NEAR(squared, 1, 1e-6);
    }
    double energy = 0, mean_energy = 0;
    for (const float v : out) energy += static_cast<double>(v) * v / rows;
    for (const float v : truth.mean) mean_energy += static_cast<double>(v) * v;
    EXPECT_GT(mean_energy / energy, 0.1);
}

TEST(Synth, ChildrenFireOnlyWithTheirParentAndGroupsTogether) {
    SynthConfig config;
    config.n = 64;
    config.features = 8;
    config.active = 1.2;
    config.power = 0;
    config.children = 0.25;  // features 0, 1 have children 2, 3
    config.grouped = 0.5;    // features 4 to 7
    config.noise = 0;
    config.mean = 0;
    config.spread = 0;
    const Truth truth = make_truth(config);
    EXPECT_EQ(truth.parent, (std::vector<std::int64_t>{-1, -1, 0, 1, -1, -1, -1, -1}));
    EXPECT_EQ(truth.group, (std::vector<std::int64_t>{-1, -1, -1, -1, 0, 0, 0, 0}));
    constexpr int rows = 20000;
    int child = 0, parent = 0, member = 0, pair = 0;
    for (int r = 0; r < rows; ++r) {
        std::vector<float> row(64);
        std::vector<std::uint64_t> fired(8);
        make_rows(config, truth, r, row, fired);
        EXPECT_LE(fired[2], fired[0]);
        EXPECT_LE(fired[3], fired[1]);
        // All magnitudes are 1 here, so the row is the sum of the directions that fired.
        for (std::size_t j = 0; j < 64; ++j) {
            float sum = 0;
            for (std::size_t i = 0; i < 8; ++i)
                sum += static_cast<float>(fired[i]) * truth.directions[i * 64 + j];
            ASSERT_NEAR(row[j], sum, 1e-5);
        }
        parent += static_cast<int>(fired[0]);
        child += static_cast<int>(fired[2]);
        member += static_cast<int>(fired[4]);
        pair += static_cast<int>(fired[4] * fired[5]);
    }
    EXPECT_NEAR(static_cast<double>(child) / parent, 0.3, 0.05);
    EXPECT_NEAR(static_cast<double>(pair) / member, 0.25, 0.04);
}

TEST(Synth, FileHoldsRowsAndTruth) {
    const Folder folder;
    SynthConfig config;
    config.rows = 5000;
    config.n = 16;
    config.features = 32;
    config.active = 3;
    config.type = Type::bfloat16;
    std::int64_t told = 0;
    write_synthetic(folder / "a.h5", config, [&](std::int64_t rows) { told = rows; });
    EXPECT_EQ(told, 5000);
    const auto found = find_datasets({folder / "a.h5"}, {"**"});
    ASSERT_EQ(found.size(), 1);
    EXPECT_EQ(found[0].name, "resid_post/0");
    EXPECT_EQ(found[0].rows, 5000);
    EXPECT_EQ(found[0].parts[0].type, Type::bfloat16);
    const auto features = find_datasets({folder / "a.h5"}, {"true_features"})[0];
    EXPECT_EQ(features.rows, 32);
    std::vector<float> directions(32 * 16);
    Reader(features).read(0, directions);
    EXPECT_EQ(directions, make_truth(config).directions);
    EXPECT_EQ(true_features_of(found[0]), directions);
    EXPECT_THAT(thrown<UsageError>([&] { write_synthetic(folder / "a.h5", config); }),
                HasSubstr("exists already"));
}

TEST(Synth, SenselessRequestsAreRefused) {
    const auto refusal = [](auto change) {
        SynthConfig config;
        change(config);
        return thrown<UsageError>([&] { make_truth(config); });
    };
    EXPECT_THAT(refusal([](SynthConfig& c) { c.active = 200; }),
                HasSubstr("active: 200 features per row are too many for 256"));
    EXPECT_THAT(refusal([](SynthConfig& c) { c.active = 0; }), HasSubstr("active: 0 is not"));
    EXPECT_THAT(refusal([](SynthConfig& c) { c.rows = 0; }), HasSubstr("rows: 0 is too few"));
    EXPECT_THAT(refusal([](SynthConfig& c) { c.children = 0.6; }),
                HasSubstr("each child needs a parent of its own"));
    EXPECT_THAT(refusal([](SynthConfig& c) { c.mean = 1; }), HasSubstr("mean: 1 is not a share"));
}

TEST(Synth, RecoveredShareCountsFeaturesWithACloseRow) {
    const std::vector<float> truth = {1, 0, 0, 0, 1, 0, 0, 0, 1, 0.6F, 0.8F, 0};
    const std::vector<float> decoder = {5, 0, 0, 0, 0, 0, 0, 0.1F, 0.1F};
    EXPECT_DOUBLE_EQ(recovered_share(truth, decoder, 3, 0.9), 0.25);
    EXPECT_DOUBLE_EQ(recovered_share(truth, decoder, 3, 0.7), 0.75);
    EXPECT_DOUBLE_EQ(recovered_share(truth, decoder, 3, 0.5), 1.0);
    EXPECT_DOUBLE_EQ(recovered_share(truth, {}, 3, 0.5), 0);
}

}  // namespace
}  // namespace strata::data
