#include "data/check.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "data/files.h"
#include "data/inspect.h"

namespace strata::data {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::int64_t n = 8;

TEST(Check, CountsWhatIsThere) {
    const Folder folder;
    const auto write = [&](const std::string& name, Type type, float bad) {
        Writer writer(folder / name);
        const std::size_t d = writer.add({"r/0", n, type, "", "", -1});
        for (int r = 0; r < 3000; ++r) {
            std::vector<float> row(n);
            row[0] = static_cast<float>(100 + r % 101);  // median 150 or 151
            row[1] = static_cast<float>(r);
            row[1] /= 4096;
            if (r == 10 || r == 2000) row = {3000, 1};
            if (r == 11 || r == 700) row.assign(n, 0);
            if (r == 900) row[3] = row[4] = bad;
            row.resize(n);
            writer.append(d, row);
        }
        writer.finish();
    };
    write("a.h5", Type::float32, std::numeric_limits<float>::infinity());
    write("b.h5", Type::float16, 1);
    const Dataset dataset = find_datasets({folder / "*.h5"}, {"r/0"})[0];
    std::int64_t told = 0;
    const CheckReport report = check(dataset, [&](std::int64_t rows) { told = rows; });
    EXPECT_EQ(told, 6000);
    EXPECT_TRUE(report.wrong());
    EXPECT_EQ(report.rows, 6000);
    EXPECT_EQ(report.unreadable_rows, 0);
    EXPECT_EQ(report.non_finite_values, 2);
    EXPECT_EQ(report.non_finite_rows, 1);
    EXPECT_EQ(report.first_non_finite, (folder / "a.h5").string() + ": r/0: row 900, element 3: inf");
    EXPECT_EQ(report.zero_rows, 4);
    EXPECT_EQ(report.sinks, 4);
    EXPECT_EQ(report.duplicate_rows, 2);  // rows of different types are never equal byte by byte
    EXPECT_EQ(report.min_norm, 0);
    EXPECT_NEAR(report.max_norm, 3000, 0.01);
    EXPECT_NEAR(report.median_norm, 150, 1);
    EXPECT_GT(report.mean_square, 150 * 150);
}

TEST(Check, SoundFileIsNotWrong) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::bfloat16, 0, 2500, n);
    const Dataset dataset = find_datasets({folder / "a.h5"}, {"r/0"})[0];
    const CheckReport report = check(dataset);
    EXPECT_FALSE(report.wrong());
    EXPECT_THAT(report.notes, IsEmpty());
    EXPECT_NEAR(report.mean_square, dataset.parts[0].mean_sq_norm, 1e-6 * report.mean_square);
    EXPECT_EQ(report.duplicate_rows, 0);
}

TEST(Check, NotesWhatIsMissingOrDoesNotAgree) {
    const Folder folder;
    write_plain(folder / "a.h5", "r/0", H5T_IEEE_F32LE, {100, 4}, 2);
    EXPECT_THAT(check(find_datasets({folder / "a.h5"}, {"r/0"})[0]).notes,
                ElementsAre(HasSubstr("1 of 1 files have no checksum")));
    write_numbered(folder / "b.h5", "r/0", Type::float32, 0, 100, n);
    Dataset dataset = find_datasets({folder / "b.h5"}, {"r/0"})[0];
    dataset.parts[0].mean_sq_norm = 1;
    EXPECT_THAT(check(dataset).notes,
                ElementsAre(HasSubstr("the attribute mean_sq_norm says 1, the rows have")));
}

TEST(Check, ValuesBeyondTheSquareRootOfFloat32AreFinite) {
    const Folder folder;
    write_plain(folder / "a.h5", "r/0", H5T_IEEE_F32LE, {10, 4}, 1e30);
    write_plain(folder / "a.h5", "r/1", H5T_IEEE_F32LE, {10, 4}, 1e-30);
    const auto datasets = find_datasets({folder / "a.h5"}, {"r/*"});
    const CheckReport large = check(datasets[0]), small = check(datasets[1]);
    EXPECT_FALSE(large.wrong());
    EXPECT_NEAR(large.median_norm / 2e30, 1, 1e-3);
    EXPECT_FALSE(small.wrong());
    EXPECT_NEAR(small.median_norm / 2e-30, 1, 1e-3);
}

TEST(Check, DamagedChunkIsFoundAndTheRestRead) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 20000, 16);
    flip_byte(folder / "a.h5", std::filesystem::file_size(folder / "a.h5") / 2);
    const CheckReport report = check(find_datasets({folder / "a.h5"}, {"r/0"})[0]);
    EXPECT_TRUE(report.wrong());
    EXPECT_EQ(report.unreadable_rows, 256);
    EXPECT_THAT(report.failures, ElementsAre(AllOf(HasSubstr("a.h5: r/0: rows "), HasSubstr("fletcher32"))));
    EXPECT_GT(report.median_norm, 0);
}

TEST(Survey, ListsObstaclesAndGoesOn) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 100, n);
    write_numbered(folder / "b.h5", "r/0", Type::float16, 100, 50, n);
    write_numbered(folder / "c.h5", "r/0", Type::float16, 0, 50, n + 1);
    write_plain(folder / "b.h5", "r/token_ids", H5T_STD_I32LE, {50});
    write_plain(folder / "b.h5", "r/9", H5T_IEEE_F64LE, {50, n});
    std::ofstream(folder / "d.h5") << "text";
    const Survey found = survey({folder / "*.h5", folder / "e.h5"}, {"**"});
    ASSERT_EQ(found.datasets.size(), 1);
    EXPECT_EQ(found.datasets[0].rows, 150);
    EXPECT_THAT(found.problems,
                testing::UnorderedElementsAre(
                    HasSubstr("e.h5: no such file"), HasSubstr("b.h5: r/9 has elements of type 64-bit float"),
                    HasSubstr("c.h5: r/0 has n = 9, but 8 in"), HasSubstr("d.h5: cannot be opened")));
    EXPECT_THAT(survey({folder / "a.h5"}, {"x/1"}).problems,
                ElementsAre("x/1: no dataset of this name in the files"));
}

TEST(Inspect, LinksToMissingFilesAreNotPassedOver) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 100, n);
    const hid_t file = H5Fcreate((folder / "all.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_external("a.h5", "r/0", file, "first", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_external("gone.h5", "r/0", file, "second", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    EXPECT_EQ(find_datasets({folder / "all.h5"}, {"first"})[0].rows, 100);
    EXPECT_THAT(thrown<UsageError>([&] { find_datasets({folder / "all.h5"}, {"*"}); }),
                HasSubstr("all.h5: second cannot be opened"));
}

TEST(Inspect, NamesSortAsPeopleCount) {
    std::vector<std::string> names = {"b/1", "a/10", "a/9", "a/09x", "a", "a/2/1"};
    std::ranges::sort(names, natural_less);
    EXPECT_THAT(names, ElementsAre("a", "a/2/1", "a/9", "a/09x", "a/10", "b/1"));
}

}  // namespace
}  // namespace strata::data
