#include "train/tensorboard.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "support/folder.h"
#include "support/tensorboard.h"

namespace strata::train {
namespace {

Metrics metrics_of(const std::string& sae, std::int64_t step) {
    Metrics metrics;
    metrics.sae = sae;
    metrics.step = step;
    metrics.loss = 1.0 / static_cast<double>(step);
    metrics.left_out.corrupt = 7;
    return metrics;
}

// The files of an SAE in the order of their names, each as its events.
std::vector<std::vector<test::Event>> sessions_of(const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
    std::ranges::sort(paths);
    std::vector<std::vector<test::Event>> sessions;
    for (const auto& path : paths) {
        EXPECT_TRUE(path.filename().string().starts_with("events.out.tfevents."));
        sessions.push_back(test::read_events(read_file(path)));
    }
    return sessions;
}

TEST(Tensorboard, ASessionForEveryRunThatDropsWhatIsWrittenAnew) {
    const test::Folder folder;
    for (const std::int64_t first : {10, 30, 20}) {
        TensorboardFiles files(folder / "run");
        for (std::int64_t step = first; step <= 40; step += 10)
            for (const char* sae : {"a", "b"}) files.write(metrics_of(sae, step));
    }
    for (const char* sae : {"a", "b"}) {
        const auto sessions = sessions_of(folder / "run" / "tensorboard" / sae);
        ASSERT_EQ(sessions.size(), 3);
        for (std::size_t s = 0; s < 3; ++s) {
            const std::uint64_t first = s == 0 ? 10 : s == 1 ? 30 : 20;
            ASSERT_EQ(sessions[s].size(), 2 + (50 - first) / 10);
            EXPECT_EQ(sessions[s][0].version, "brain.Event:2");
            EXPECT_EQ(sessions[s][1].session, 1);
            EXPECT_EQ(sessions[s][1].step, first);
            for (std::size_t i = 2; i < sessions[s].size(); ++i) {
                const test::Event& event = sessions[s][i];
                EXPECT_EQ(event.step, first + 10 * (i - 2));
                EXPECT_EQ(event.scalars.at("loss"),
                          static_cast<float>(1.0 / static_cast<double>(event.step)));
                EXPECT_EQ(event.scalars.at("corrupt_rows"), 7);
                EXPECT_FALSE(event.scalars.contains("step") || event.scalars.contains("sae"));
            }
        }
    }
}

TEST(Tensorboard, AFolderThatCannotBeMadeIsAnError) {
    const test::Folder folder;
    std::ofstream(folder / "tensorboard") << "a file";
    TensorboardFiles files(folder / "");
    try {
        files.write(metrics_of("a", 1));
        ADD_FAILURE() << "no error";
    } catch (const RunError& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr("tensorboard/a: cannot make the folder: "));
    }
}

}  // namespace
}  // namespace strata::train
