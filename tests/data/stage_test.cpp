#include "data/stage.h"

#include <gmock/gmock.h>

#include "data/files.h"

namespace strata::data {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::vector<float> rows_of(const Dataset& dataset) {
    std::vector<float> rows(static_cast<std::size_t>(dataset.rows * dataset.n));
    Reader(dataset).read(0, rows);
    return rows;
}

std::size_t files_in(const fs::path& folder) {
    std::size_t count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) count += entry.is_regular_file();
    return count;
}

TEST(Stage, CopiesAreReadInTheOrderOfTheOriginals) {
    const Folder folder, disk;
    fs::create_directories(folder / "b");
    write_numbered(folder / "z.h5", "x/0", Type::float16, 0, 100, 8);
    write_numbered(folder / "b/z.h5", "x/0", Type::float16, 100, 50, 8);
    const Dataset dataset = find_datasets({folder / "z.h5", folder / "b/z.h5"}, {"x/0"})[0];
    stage(dataset, disk / "deep");
    const Dataset copies = staged(dataset, disk / "deep");
    EXPECT_EQ(files_in(disk / "deep"), 2);
    const std::vector<float> before = rows_of(dataset);
    fs::remove_all(folder / "z.h5");
    fs::remove_all(folder / "b");
    EXPECT_EQ(rows_of(copies), before);
}

TEST(Stage, WhatIsThereIsNotCopiedAgain) {
    const Folder folder, disk;
    write_numbered(folder / "a.h5", "x/0", Type::float16, 0, 100, 8);
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"x/0"})[0];
    stage(dataset, disk / "");
    const fs::path copy = staged(dataset, disk / "").parts[0].path;
    const auto time = fs::last_write_time(copy);
    flip_byte(copy, 0);  // tells whether the file is copied anew
    fs::last_write_time(copy, time);
    stage(dataset, disk / "");
    EXPECT_THROW(find_datasets({copy}, {"x/0"}), UsageError);
    // Of another time: a file that was written again.
    fs::last_write_time(copy, time - std::chrono::seconds(1));
    stage(dataset, disk / "");
    EXPECT_EQ(rows_of(staged(dataset, disk / "")), rows_of(dataset));
    // Of another size: one that was cut.
    fs::resize_file(copy, 1000);
    fs::last_write_time(copy, time);
    stage(dataset, disk / "");
    EXPECT_EQ(rows_of(staged(dataset, disk / "")), rows_of(dataset));
    EXPECT_EQ(files_in(disk / ""), 1);
}

TEST(Stage, TargetsAreCopiedToo) {
    const Folder folder, disk;
    write_numbered(folder / "a.h5", "in/0", Type::float16, 0, 100, 8);
    write_numbered(folder / "b.h5", "out/0", Type::float16, 500, 100, 8);
    const Dataset dataset = find_datasets({folder / "*.h5"}, {"in/0"}, "out/0")[0];
    stage(dataset, disk / "");
    const Dataset copies = staged(dataset, disk / "");
    const std::vector<float> targets = rows_of(*dataset.target);
    fs::remove(folder / "b.h5");
    EXPECT_EQ(rows_of(*copies.target), targets);
}

TEST(Stage, FailuresNameTheFile) {
    const Folder folder, disk;
    write_numbered(folder / "a.h5", "x/0", Type::float16, 0, 100, 8);
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"x/0"})[0];
    std::ofstream(disk / "occupied") << "x";
    EXPECT_THAT(thrown<RunError>([&] { stage(dataset, disk / "occupied"); }), HasSubstr("a.h5: cannot copy"));
    Dataset mapped = dataset;
    mapped.parts[0].virtual_rows = true;
    EXPECT_THAT(thrown<RunError>([&] { stage(mapped, disk / ""); }), HasSubstr("a.h5: maps rows"));
    EXPECT_EQ(files_in(disk / ""), 1);
}

}  // namespace
}  // namespace strata::data
