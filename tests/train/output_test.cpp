// Who may write to an output folder. flock() is this file's own, to be a file system's that knows no locks.

#include "train/output.h"

#include <gmock/gmock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "base/error.h"
#include "support/folder.h"
#include "support/log.h"

namespace {
bool locks_known = true;
}

extern "C" int flock(int descriptor, int operation) noexcept {
    if (locks_known) return static_cast<int>(::syscall(SYS_flock, descriptor, operation));
    errno = ENOLCK;
    return -1;
}

namespace strata::train {
namespace {

using testing::HasSubstr;

struct OutputFolder : testing::Test {
    test::Folder folder;
    Config config;
    OutputFolder() { config.run.output = folder / "run"; }
    ~OutputFolder() override { locks_known = true; }

    std::string refusal(bool resume) const {
        try {
            open_output(config, resume);
        } catch (const UsageError& error) {
            return error.what();
        }
        return {};
    }
};

TEST_F(OutputFolder, IsForOneRunAtATime) {
    {
        const OutputLock lock = open_output(config, false);
        EXPECT_THAT(refusal(false), HasSubstr("another run is writing to"));
        EXPECT_THAT(refusal(true), HasSubstr("another run is writing to"));
        std::ofstream(folder / "run/journal.jsonl") << "{}\n";
        EXPECT_THAT(refusal(false), HasSubstr("another run is writing to"));
    }
    EXPECT_THAT(refusal(false), HasSubstr("already holds a run; continue it with --resume"));
    EXPECT_EQ(refusal(true), "");
}

TEST_F(OutputFolder, WithoutLocksIsForWhoeverIsToldSo) {
    locks_known = false;
    const test::Logged log;
    const OutputLock lock = open_output(config, false);
    EXPECT_THAT(log.lines(), testing::ElementsAre(testing::AllOf(HasSubstr("cannot be locked (No locks"),
                                                                 HasSubstr("no other run writes there"))));
}

TEST_F(OutputFolder, WithFilesOfNoRunIsLeftAlone) {
    std::filesystem::create_directory(folder / "run");
    std::ofstream(folder / "run/config.yaml") << "mine";
    for (const bool resume : {false, true})
        EXPECT_THAT(refusal(resume), HasSubstr("holds config.yaml, which a run would replace"));
    EXPECT_FALSE(std::filesystem::exists(folder / "run/.lock"));
}

}  // namespace
}  // namespace strata::train
