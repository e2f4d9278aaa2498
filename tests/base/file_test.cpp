#include "base/file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/memory.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

struct Files : testing::Test {
    fs::path folder = fs::temp_directory_path() / ("strata_file_test_" + std::to_string(getpid()));
    void SetUp() override { fs::create_directory(folder); }
    void TearDown() override { fs::remove_all(folder); }
    std::size_t count() const {
        return static_cast<std::size_t>(
            std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
    }
};

TEST_F(Files, WhatIsWrittenIsReadAndReplaced) {
    const fs::path path = folder / "a";
    const std::string binary("one\0two\n", 8);
    write_file(path, binary);
    EXPECT_EQ(read_file(path), binary);
    write_file(path, "shorter");
    EXPECT_EQ(read_file(path), "shorter");
    write_file(path, "");
    EXPECT_EQ(read_file(path), "");
    EXPECT_EQ(count(), 1U) << "a temporary file was left";
    sync_folder(folder);
}

TEST_F(Files, PiecesAreJoinedInOrder) {
    const std::string a = "first ", b, c = "third";
    const std::array<std::span<const std::byte>, 3> pieces = {
        std::as_bytes(std::span(a)), std::as_bytes(std::span(b)), std::as_bytes(std::span(c))};
    write_file(folder / "a", pieces);
    EXPECT_EQ(read_file(folder / "a"), "first third");
}

// Of blocks written past the page cache and the rest, or of places in memory and in the file where that
// cannot be.
TEST_F(Files, LargePiecesAreWholeWhereverTheyLie) {
    Array<std::byte> bytes((std::size_t{3} << 20) + 1234);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 2654435761U >> 24U);
    const std::span<const std::byte> all(bytes);
    const std::string before = "x";
    for (const std::size_t begin : {0U, 4096U, 512U, 1U})
        for (const bool shifted : {false, true}) {
            std::vector<std::span<const std::byte>> pieces = {all.subspan(begin), all};
            if (shifted) pieces.insert(pieces.begin(), std::as_bytes(std::span(before)));
            std::string expected;
            for (const auto piece : pieces)
                expected.append(reinterpret_cast<const char*>(piece.data()), piece.size());
            write_file(folder / "a", pieces);
            EXPECT_TRUE(read_file(folder / "a") == expected) << begin << " " << shifted;
        }
}

TEST_F(Files, ErrorsNameTheFileAndLeaveTheOldOne) {
    const auto message = [](const auto& work) -> std::string {
        try {
            work();
        } catch (const RunError& e) {
            return e.what();
        }
        return "";
    };
    const fs::path absent = folder / "no such folder" / "a";
    EXPECT_NE(message([&] { write_file(absent, "x"); }).find("no such folder"), std::string::npos);
    EXPECT_NE(message([&] { read_file(absent); }).find("no such folder"), std::string::npos);
    fs::create_directory(folder / "taken");
    write_file(folder / "taken" / "inside", "x");
    EXPECT_NE(message([&] { write_file(folder / "taken", "x"); }).find("taken"), std::string::npos);
    EXPECT_EQ(read_file(folder / "taken" / "inside"), "x");
    EXPECT_EQ(count(), 1U) << "a temporary file was left";
}

TEST(Checksum, IsCrc32AndContinues) {
    const std::string text = "123456789";
    const auto bytes = std::as_bytes(std::span(text));
    EXPECT_EQ(checksum(bytes), 0xCBF43926U);
    EXPECT_EQ(checksum(bytes.subspan(4), checksum(bytes.first(4))), 0xCBF43926U);
    EXPECT_EQ(checksum({}), 0U);
    EXPECT_EQ(checksum({}, 0xCBF43926U), 0xCBF43926U);
    std::string changed = text;
    changed[4] ^= 1;
    EXPECT_NE(checksum(std::as_bytes(std::span(changed))), 0xCBF43926U);
}

}  // namespace
}  // namespace strata
