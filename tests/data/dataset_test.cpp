#include "data/dataset.h"

#include <gmock/gmock.h>

#include "data/convert.h"
#include "data/files.h"
#include "data/hdf5.h"

namespace strata::data {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string refusal(const std::vector<std::string>& files, const std::vector<std::string>& names) {
    return thrown<UsageError>([&] { find_datasets(files, names); });
}

TEST(Datasets, FilesInOrderMakeOneDataset) {
    const Folder folder;
    write_numbered(folder / "b.h5", "resid_post/3", Type::bfloat16, 300, 77, 10);
    write_numbered(folder / "a.h5", "resid_post/3", Type::float16, 0, 300, 10);
    write_numbered(folder / "c.h5", "resid_post/3", Type::float32, 377, 1, 10);
    const auto found = find_datasets({folder / "*.h5", folder / "a.h5"}, {"/resid_post/3"});
    ASSERT_EQ(found.size(), 1);
    const Dataset& dataset = found[0];
    EXPECT_EQ(dataset.name, "resid_post/3");
    EXPECT_EQ(dataset.rows, 378);
    EXPECT_EQ(dataset.n, 10);
    ASSERT_EQ(dataset.parts.size(), 3);
    EXPECT_EQ(dataset.parts[1].first, 300);
    EXPECT_EQ(dataset.parts[1].type, Type::bfloat16);
    EXPECT_EQ(dataset.parts[0].model, "test-model");
    EXPECT_EQ(dataset.parts[0].site, "resid_post");
    EXPECT_EQ(dataset.parts[0].layer, 3);
    EXPECT_EQ(dataset.parts[0].chunk_rows, 256);
    EXPECT_TRUE(dataset.parts[0].checksummed);
    EXPECT_GT(dataset.parts[0].mean_sq_norm, 0);

    Reader reader(dataset);
    std::vector<float> rows(378 * 10);
    reader.read(0, rows);
    for (std::int64_t r = 0; r < 378; ++r) EXPECT_EQ(number_of(&rows[static_cast<std::size_t>(10 * r)]), r);
    std::vector<float> some(100 * 10);
    reader.read(250, some);
    EXPECT_EQ(number_of(some.data()), 250);
    EXPECT_EQ(number_of(&some[990]), 349);
    std::vector<std::byte> raw(2 * 10 * 2);
    EXPECT_EQ(&part_of(dataset, 301), &dataset.parts[1]);
    EXPECT_EQ(reader.read_raw(301, 2, raw).type, Type::bfloat16);
    EXPECT_EQ(place_of(dataset, 301), (folder / "b.h5").string() + ": resid_post/3: row 1");
}

TEST(Datasets, GlobsTakeNamesInOrderOfLayer) {
    const Folder folder;
    const hid_t f32 = H5T_IEEE_F32LE;
    for (const char* name : {"resid_post/10", "resid_post/9", "resid_post/0", "mlp_out/1", "true_features"})
        write_plain(folder / "a.h5", name, f32, {20, 4});
    write_plain(folder / "a.h5", "resid_post/token_ids", H5T_STD_I32LE, {20});
    const auto names = [&](const std::vector<std::string>& patterns) {
        std::vector<std::string> result;
        for (const Dataset& d : find_datasets({folder / "a.h5"}, patterns)) result.push_back(d.name);
        return result;
    };
    EXPECT_THAT(names({"resid_post/*"}), ElementsAre("resid_post/0", "resid_post/9", "resid_post/10"));
    EXPECT_THAT(names({"*/*"}), ElementsAre("mlp_out/1", "resid_post/0", "resid_post/9", "resid_post/10"));
    EXPECT_THAT(names({"*/1", "mlp_out/1"}), ElementsAre("mlp_out/1"));
    EXPECT_THAT(names({"**"}), names({"*/*"}));
    EXPECT_THAT(names({"true_features"}), ElementsAre("true_features"));
}

TEST(Datasets, EachLayerMayHaveItsOwnFile) {
    const Folder folder;
    write_plain(folder / "l0.h5", "resid_post/0", H5T_IEEE_F32LE, {20, 4});
    write_plain(folder / "l1.h5", "resid_post/1", H5T_IEEE_F32LE, {30, 4});
    const auto found = find_datasets({folder / "*.h5"}, {"resid_post/*"});
    ASSERT_EQ(found.size(), 2);
    EXPECT_EQ(found[1].rows, 30);
}

TEST(Datasets, FilesThatDisagreeAreRefused) {
    const Folder folder;
    const hid_t f32 = H5T_IEEE_F32LE;
    write_plain(folder / "a.h5", "r/0", f32, {20, 4});
    write_plain(folder / "a.h5", "r/1", f32, {20, 4});
    write_plain(folder / "b.h5", "r/0", f32, {20, 4});
    EXPECT_THAT(
        refusal({folder / "*.h5"}, {"r/*"}),
        AllOf(HasSubstr("b.h5: r/1 is missing"), HasSubstr("holds r/0"), HasSubstr("a.h5 holds both")));
    EXPECT_EQ(find_datasets({folder / "*.h5"}, {"r/0"})[0].rows, 40);
    write_plain(folder / "c.h5", "s/0", f32, {20, 4});
    EXPECT_THAT(refusal({folder / "*.h5"}, {"r/0"}),
                AllOf(HasSubstr("c.h5: holds none of"), HasSubstr("but s/0")));
    write_plain(folder / "d.h5", "r/0", f32, {20, 5});
    EXPECT_THAT(refusal({folder / "{a,b,d}.h5"}, {"r/0"}),
                AllOf(HasSubstr("d.h5: r/0 has n = 5, but 4 in"), HasSubstr("a.h5")));
}

TEST(Targets, AreFoundByName) {
    const Folder folder;
    const hid_t f32 = H5T_IEEE_F32LE;
    for (const char* name : {"mlp_in/9", "mlp_in/10", "mlp_out/9", "mlp_out/10", "mlp_out/11", "flat"})
        write_plain(folder / "a.h5", name, f32, {20, 4});
    const auto pairs = [&](const std::vector<std::string>& files, const std::vector<std::string>& names,
                           const std::string& target) {
        std::vector<std::string> result;
        for (const Dataset& d : find_datasets(files, names, target))
            result.push_back(d.name + " " + (d.target ? d.target->name : "-"));
        return result;
    };
    const std::string a = folder / "a.h5";
    EXPECT_THAT(pairs({a}, {"mlp_in/*"}, "mlp_out/*"),
                ElementsAre("mlp_in/9 mlp_out/9", "mlp_in/10 mlp_out/10"));
    EXPECT_THAT(pairs({a}, {"mlp_in/*"}, "/flat"), ElementsAre("mlp_in/9 flat", "mlp_in/10 flat"));
    EXPECT_THAT(pairs({a}, {"mlp_out/9", "mlp_in/9"}, "mlp_out/*"),
                ElementsAre("mlp_in/9 mlp_out/9", "mlp_out/9 mlp_out/9"));
    EXPECT_THAT(pairs({a}, {"flat"}, "*"), ElementsAre("flat flat"));
    EXPECT_THAT(pairs({a}, {"mlp_in/*"}, ""), ElementsAre("mlp_in/9 -", "mlp_in/10 -"));
    EXPECT_EQ(target_name("mlp_*/out", "blocks/3/mlp_in"), "mlp_mlp_in/out");
}

TEST(Targets, MayHaveFilesOfTheirOwn) {
    const Folder folder;
    write_numbered(folder / "in-0.h5", "mlp_in/3", Type::float16, 0, 300, 10);
    write_numbered(folder / "in-1.h5", "mlp_in/3", Type::float16, 300, 70, 10);
    write_numbered(folder / "out-0.h5", "mlp_out/3", Type::bfloat16, 0, 300, 10);
    write_numbered(folder / "out-1.h5", "mlp_out/3", Type::float32, 300, 70, 10);
    const auto found = find_datasets({folder / "*.h5"}, {"mlp_in/*"}, "mlp_out/*");
    ASSERT_EQ(found.size(), 1);
    ASSERT_TRUE(found[0].target);
    EXPECT_EQ(found[0].target->rows, 370);
    EXPECT_EQ(found[0].target->parts[1].type, Type::float32);
    EXPECT_EQ(place_of(*found[0].target, 301), (folder / "out-1.h5").string() + ": mlp_out/3: row 1");
}

TEST(Targets, WhatDoesNotBelongTogetherIsRefused) {
    const Folder folder;
    const hid_t f32 = H5T_IEEE_F32LE;
    const auto refused = [&](const std::string& files, const std::string& target) {
        return thrown<UsageError>([&] { find_datasets({folder / files}, {"in/*"}, target); });
    };
    write_plain(folder / "a.h5", "in/0", f32, {20, 4});
    write_plain(folder / "a.h5", "in/1", f32, {20, 4});
    write_plain(folder / "a.h5", "out/0", f32, {20, 4});
    write_plain(folder / "a.h5", "wide/0", f32, {20, 6});
    write_plain(folder / "a.h5", "wide/1", f32, {19, 5});
    write_plain(folder / "a.h5", "double", H5T_IEEE_F64LE, {20, 4});
    EXPECT_THAT(refused("a.h5", "out/*"),
                HasSubstr("out/1: no dataset of this name to be the target of in/1 (data.target: out/*)"));
    EXPECT_THAT(
        refused("a.h5", "none"),
        AllOf(HasSubstr("none: no dataset of this name to be the target of in/0 (data.target: none); "),
              HasSubstr("a.h5 holds double, in/0, in/1, out/0")));
    EXPECT_THAT(
        refused("a.h5", "wide/*"),
        AllOf(HasSubstr("in/0 has n = 4, its target wide/0 has n = 6; inputs and targets of different "
                        "width are not supported"),
              HasSubstr("in/1 has n = 4, its target wide/1 has n = 5"),
              HasSubstr("a.h5: in/1 has 20 rows, its target wide/1 has 19; row i of both must be of the "
                        "same token")));
    EXPECT_THAT(refused("a.h5", "double"), HasSubstr("a.h5: double has elements of type 64-bit float"));

    // The same number of rows in all, but not file by file.
    write_plain(folder / "b0.h5", "in/0", f32, {20, 4});
    write_plain(folder / "b1.h5", "in/0", f32, {10, 4});
    write_plain(folder / "b2.h5", "out/0", f32, {15, 4});
    write_plain(folder / "b3.h5", "out/0", f32, {15, 4});
    EXPECT_THAT(refused("b*.h5", "out/0"),
                AllOf(HasSubstr("b0.h5: in/0 has 20 rows, its target out/0 has 15 in "),
                      HasSubstr("b1.h5: in/0 has 10 rows, its target out/0 has 15 in ")));
    write_plain(folder / "c0.h5", "in/0", f32, {20, 4});
    write_plain(folder / "c1.h5", "out/0", f32, {10, 4});
    write_plain(folder / "c2.h5", "out/0", f32, {10, 4});
    EXPECT_THAT(
        refused("c*.h5", "out/0"),
        HasSubstr("in/0 has 20 rows in 1 file, its target out/0 has 20 rows in 2 files; row i of both"));
    // One of the files has lost its targets.
    write_plain(folder / "d0.h5", "in/0", f32, {20, 4});
    write_plain(folder / "d0.h5", "out/0", f32, {20, 4});
    write_plain(folder / "d1.h5", "in/0", f32, {20, 4});
    EXPECT_THAT(
        refused("d*.h5", "out/0"),
        AllOf(HasSubstr("d1.h5: out/0 is missing, though the file holds in/0"), HasSubstr("holds both")));
}

TEST(Datasets, WhatCannotBeStreamedIsRefusedAllAtOnce) {
    const Folder folder;
    write_plain(folder / "a.h5", "doubles", H5T_IEEE_F64LE, {20, 4});
    write_plain(folder / "a.h5", "foreign", H5T_IEEE_F32BE, {20, 4});
    write_plain(folder / "a.h5", "flat", H5T_IEEE_F32LE, {20});
    write_plain(folder / "a.h5", "none", H5T_IEEE_F32LE, {0, 4}, 1, 16);
    write_plain(folder / "a.h5", "unwritten", H5T_IEEE_F32LE, {200, 4}, 1, 16, false);
    write_plain(folder / "a.h5", "group/0", H5T_IEEE_F32LE, {20, 4});
    const std::string text =
        refusal({folder / "a.h5"}, {"doubles", "foreign", "flat", "none", "unwritten", "group"});
    EXPECT_THAT(text,
                HasSubstr("a.h5: doubles has elements of type 64-bit float; expected little-endian float16"));
    EXPECT_THAT(text, HasSubstr("a.h5: foreign has elements of type big-endian 32-bit float"));
    EXPECT_THAT(text, HasSubstr("a.h5: flat has 1 dimension; expected two, [rows, n]"));
    EXPECT_THAT(text, HasSubstr("a.h5: none has no rows"));
    EXPECT_THAT(text, HasSubstr("a.h5: unwritten was not written to its end: 0 of 13 chunks hold data"));
    EXPECT_THAT(text, HasSubstr("a.h5: group is a group; name the datasets in it, as in group/*"));
    EXPECT_THAT(refusal({folder / "a.h5"}, {"group/1"}),
                AllOf(HasSubstr("group/1: no dataset of this name in"),
                      HasSubstr("a.h5 holds doubles, flat, foreign, group/0")));
    EXPECT_THAT(refusal({folder / "a.h5"}, {"other/*"}), HasSubstr("other/*: no dataset of this name"));
}

TEST(Datasets, BrokenFilesAreRefusedAllAtOnce) {
    const Folder folder;
    write_numbered(folder / "cut.h5", "r/0", Type::float16, 0, 3000, 16);
    const auto size = std::filesystem::file_size(folder / "cut.h5");
    std::filesystem::resize_file(folder / "cut.h5", size - 1);
    std::ofstream(folder / "text.h5") << "these are not the bytes of an HDF5 file";
    std::ofstream(folder / "zero.h5").close();
    std::filesystem::create_directory(folder / "folder.h5");
    const std::string text = refusal({folder / "*.h5", folder / "missing.h5", folder / "x*.h5"}, {"r/0"});
    EXPECT_THAT(
        text, HasSubstr(fmt::format(
                  "cut.h5: cannot be opened: the file is truncated: it should have {} bytes and has {}", size,
                  size - 1)));
    EXPECT_THAT(text, HasSubstr("text.h5: cannot be opened: it is not an HDF5 file"));
    EXPECT_THAT(text, HasSubstr("zero.h5: cannot be opened: it is empty (0 bytes)"));
    EXPECT_THAT(text, HasSubstr("folder.h5: is a folder; name the files in it, as in"));
    EXPECT_THAT(text, HasSubstr("missing.h5: no such file\n"));
    EXPECT_THAT(text, HasSubstr("x*.h5: no such file matches"));
}

TEST(Datasets, LongListsOfProblemsAreCut) {
    const Folder folder;
    for (int i = 0; i < 30; ++i) std::ofstream(folder / fmt::format("{}.h5", i)) << "no";
    EXPECT_THAT(refusal({folder / "*.h5"}, {"r/0"}), HasSubstr("... and 10 more like these"));
}

TEST(Reader, DamagedChunkNamesFileDatasetAndRows) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 20000, 16);
    flip_byte(folder / "a.h5", std::filesystem::file_size(folder / "a.h5") / 2);
    const auto dataset = find_datasets({folder / "a.h5"}, {"r/0"})[0];
    Reader reader(dataset);
    std::string text;
    for (std::int64_t row = 0; row + 256 <= 20000; row += 256) {
        std::vector<float> rows(256 * 16);
        const std::string message = thrown<RunError>([&] { reader.read(row, rows); });
        if (message.empty()) continue;
        EXPECT_EQ(text, "") << "more than one chunk is damaged";
        text = message;
        EXPECT_THAT(text,
                    HasSubstr(fmt::format("a.h5: r/0: rows {} to {} cannot be read: ", row, row + 255)));
    }
    EXPECT_THAT(text, HasSubstr("do not match their fletcher32 checksum: the file is damaged"));
}

TEST(Reader, FileThatGoesAwayIsARunError) {
    const Folder folder;
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 20, 16);
    const auto dataset = find_datasets({folder / "a.h5"}, {"r/0"})[0];
    std::filesystem::remove(folder / "a.h5");
    Reader reader(dataset);
    std::vector<float> row(16);
    EXPECT_THAT(thrown<RunError>([&] { reader.read(0, row); }),
                HasSubstr("a.h5: cannot be read: No such file or directory"));
}

TEST(Reader, MoreFilesThanAreKeptOpen) {
    const Folder folder;
    for (int i = 0; i < 70; ++i)
        write_numbered(folder / fmt::format("{:02}.h5", i), "r/0", Type::float16, 3 * i, 3, 4);
    const auto dataset = find_datasets({folder / "*.h5"}, {"r/0"})[0];
    Reader reader(dataset);
    for (int pass = 0; pass < 2; ++pass)
        for (std::int64_t row = 0; row < dataset.rows; ++row) {
            std::vector<float> values(4);
            reader.read(row, values);
            ASSERT_EQ(number_of(values.data()), row);
        }
    EXPECT_LE(H5Fget_obj_count(static_cast<hid_t>(H5F_OBJ_ALL), H5F_OBJ_FILE), 64);
}

TEST(Writer, DoesNotDependOnTheSizeOfAppends) {
    const Folder folder;
    std::vector<float> rows;
    for (int r = 0; r < 1000; ++r)
        for (const float v : numbered_row(r, 8)) rows.push_back(v);
    const auto write = [&](const std::string& path, std::size_t step) {
        Writer writer(path);
        const std::size_t d = writer.add({"r/0", 8, Type::bfloat16, "", "", -1});
        for (std::size_t i = 0; i < 1000; i += step)
            writer.append(d, std::span(rows).subspan(8 * i, 8 * std::min(step, 1000 - i)));
        writer.finish();
    };
    write(folder / "a.h5", 1);
    write(folder / "b.h5", 300);
    const auto a = find_datasets({folder / "a.h5"}, {"r/0"})[0];
    const auto b = find_datasets({folder / "b.h5"}, {"r/0"})[0];
    EXPECT_EQ(a.parts[0].mean_sq_norm, b.parts[0].mean_sq_norm);
    std::vector<float> from_a(8000), from_b(8000);
    Reader(a).read(0, from_a);
    Reader(b).read(0, from_b);
    EXPECT_EQ(from_a, from_b);
    EXPECT_EQ(from_a, rows);
}

TEST(Writer, LeavesNothingUnlessFinished) {
    const Folder folder;
    {
        Writer writer(folder / "a.h5");
        writer.append(writer.add({"r/0", 4, Type::float16, "", "", -1}), numbered_row(0, 4));
        EXPECT_FALSE(std::filesystem::exists(folder / "a.h5"));
    }
    EXPECT_FALSE(std::filesystem::exists(folder / "a.h5"));
    EXPECT_FALSE(std::filesystem::exists(folder / "a.h5.tmp"));
    write_numbered(folder / "a.h5", "r/0", Type::float16, 0, 20, 16);
    EXPECT_THAT(thrown<UsageError>([&] { Writer again(folder / "a.h5"); }),
                HasSubstr("exists already and is not overwritten"));
    EXPECT_THAT(thrown<UsageError>([&] { Writer nowhere(folder / "no/such/a.h5"); }),
                HasSubstr("a.h5: cannot be made"));
}

}  // namespace
}  // namespace strata::data
