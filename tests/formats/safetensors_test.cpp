#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "support/folder.h"

namespace strata {
namespace {

using safetensors::Tensor;
using test::Folder;
using testing::HasSubstr;

using Shape = std::vector<std::int64_t>;

template <typename T>
std::span<const std::byte> bytes(const std::vector<T>& values) {
    return std::as_bytes(std::span(values));
}

// A file of this header and so many zero bytes after it.
std::string file_of(const std::string& header, std::size_t data_bytes) {
    const std::uint64_t length = header.size();
    std::string text(8, '\0');
    std::memcpy(text.data(), &length, 8);
    return text + header + std::string(data_bytes, '\0');
}

// What reading these bytes complains of, or "".
std::string complaint(const std::string& contents, const char* floats = nullptr, const Shape& shape = {}) {
    const Folder folder;
    const auto path = folder / "x.safetensors";
    std::ofstream(path, std::ios::binary) << contents;
    try {
        const auto file = safetensors::read(path);
        if (floats) file.floats(floats, shape);
    } catch (const RunError& error) {
        EXPECT_TRUE(std::string(error.what()).starts_with(path.string())) << error.what();
        return error.what();
    }
    return "";
}

TEST(Safetensors, RoundTrip) {
    const Folder folder;
    const std::vector<float> weights = {1, -2, 3.5F, 0, -0.0F, std::numeric_limits<float>::infinity()};
    const std::vector<std::uint64_t> counts = {1, std::uint64_t{1} << 63};
    const std::vector<std::uint8_t> odd = {1, 2, 3};
    const std::vector<float> none;
    const std::array tensors = {
        Tensor{"weights", "F32", {2, 3}, bytes(weights)}, Tensor{"odd \"name\"", "U8", {3}, bytes(odd)},
        Tensor{"counts", "U64", {2}, bytes(counts)}, Tensor{"scalar", "F32", {}, bytes(weights).first(4)},
        Tensor{"none", "F32", {0, 7}, bytes(none)}};
    const auto path = folder / "x.safetensors";
    safetensors::write(path, tensors, {{"format", "pt"}, {"note", "a \"quoted\" \xc3\xa9"}});
    const auto file = safetensors::read(path);
    ASSERT_EQ(file.tensors.size(), tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        EXPECT_EQ(file.tensors[i].name, tensors[i].name);
        EXPECT_EQ(file.tensors[i].dtype, tensors[i].dtype);
        EXPECT_EQ(file.tensors[i].shape, tensors[i].shape);
        EXPECT_TRUE(std::equal(tensors[i].data.begin(), tensors[i].data.end(), file.tensors[i].data.begin(),
                               file.tensors[i].data.end()));
    }
    EXPECT_EQ(file.metadata.at("note"), "a \"quoted\" \xc3\xa9");
    EXPECT_EQ(file.floats("weights", Shape{2, 3}), weights);
    EXPECT_TRUE(std::signbit(file.floats("weights", Shape{2, 3})[4]));
    EXPECT_EQ(file.floats("scalar", Shape{}), std::vector<float>{1});
    EXPECT_TRUE(file.floats("none", Shape{0, 7}).empty());
    EXPECT_TRUE(file.has("odd \"name\""));
    EXPECT_FALSE(file.has("odd"));
}

// The layout byte by byte, as the format's description has it.
TEST(Safetensors, Layout) {
    const Folder folder;
    const std::vector<float> a = {1, 2};
    const std::vector<std::uint8_t> b = {7};
    const auto path = folder / "x.safetensors";
    safetensors::write(path,
                       std::array{Tensor{"b", "U8", {1}, bytes(b)}, Tensor{"a", "F32", {2, 1}, bytes(a)}},
                       {{"k", "v"}});
    std::string header = R"({"__metadata__":{"k":"v"},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                         R"("a":{"dtype":"F32","shape":[2,1],"data_offsets":[1,9]}})";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const std::string expected = file_of(header, 0) + std::string("\x07\x00\x00\x80\x3f\x00\x00\x00\x40", 9);
    EXPECT_EQ(read_file(path), expected);
    // The float tensor stands at an odd address.
    EXPECT_EQ(safetensors::read(path).floats("a", Shape{2, 1}), a);
}

TEST(Safetensors, NoTensors) {
    const Folder folder;
    safetensors::write(folder / "x", {});
    EXPECT_EQ(read_file(folder / "x"), file_of("{}      ", 0));
    EXPECT_TRUE(safetensors::read(folder / "x").tensors.empty());
}

TEST(Safetensors, OtherTypesAsFloats) {
    const Folder folder;
    const std::vector<std::uint8_t> pad = {0};
    const std::vector<std::uint16_t> half = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00, 0x8000};
    const std::vector<std::uint16_t> brain = {0x3f80, 0xc000, 0x0001, 0x7f7f, 0x7f80, 0x8000};
    const std::vector<double> wide = {1, 0.1, 1e300};
    const std::vector<std::int32_t> whole = {1};
    // The byte in front makes every other tensor misaligned.
    for (const std::size_t offset : {0U, 1U}) {
        std::vector<Tensor> tensors = {{"half", "F16", {6}, bytes(half)},
                                       {"brain", "BF16", {6}, bytes(brain)},
                                       {"wide", "F64", {3}, bytes(wide)},
                                       {"whole", "I32", {1}, bytes(whole)}};
        if (offset == 1) tensors.insert(tensors.begin(), {"pad", "U8", {1}, bytes(pad)});
        safetensors::write(folder / "x", tensors);
        const auto file = safetensors::read(folder / "x");
        const float inf = std::numeric_limits<float>::infinity();
        EXPECT_EQ(file.floats("half", Shape{6}), (std::vector<float>{1, -2, 0x1p-24F, 65504, inf, 0}));
        EXPECT_EQ(file.floats("brain", Shape{6}),
                  (std::vector<float>{1, -2, 0x1p-133F, 0x1.fep127F, inf, 0}));
        EXPECT_EQ(file.floats("wide", Shape{3}), (std::vector<float>{1, 0.1F, inf}));
        EXPECT_THROW(file.floats("whole", Shape{1}), RunError);
    }
}

TEST(Safetensors, WritesNothingWrong) {
    const Folder folder;
    const std::vector<float> a = {1, 2};
    const auto path = folder / "x";
    EXPECT_THROW(safetensors::write(path, std::array{Tensor{"a", "F32", {3}, bytes(a)}}), RunError);
    EXPECT_THROW(safetensors::write(path, std::array{Tensor{"a", "F32", {-2, -1}, bytes(a)}}), RunError);
    EXPECT_THROW(safetensors::write(path, std::array{Tensor{"a", "F33", {2}, bytes(a)}}), RunError);
    EXPECT_THROW(
        safetensors::write(path, std::array{Tensor{"__metadata__", "F32", {2}, bytes(a)}}, {{"k", "v"}}),
        RunError);
    EXPECT_THROW(safetensors::write(
                     path, std::array{Tensor{"a", "F32", {2}, bytes(a)}, Tensor{"a", "F32", {2}, bytes(a)}}),
                 RunError);
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_THROW(safetensors::write(folder / "none/x", std::array{Tensor{"a", "F32", {2}, bytes(a)}}),
                 RunError);
}

struct Bad {
    std::string header;
    std::size_t data;
    std::string message;
};

class BadHeader : public testing::TestWithParam<Bad> {};

TEST_P(BadHeader, IsNamed) {
    EXPECT_THAT(complaint(file_of(GetParam().header, GetParam().data)), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Safetensors, BadHeader,
    testing::Values(
        Bad{"[]", 0, "not a map of tensors"}, Bad{"{", 0, "not JSON"}, Bad{"", 0, "not JSON"},
        Bad{"{\"a\": 5}", 0, "tensor 'a': the header gives no dtype"},
        Bad{R"({"a":{"dtype":"F32","shape":[1]}})", 4, "tensor 'a': the header gives no data_offsets"},
        Bad{R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4,
            "tensor 'a': unknown dtype \"F31\""},
        Bad{R"({"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4, "tensor 'a': unknown dtype 32"},
        Bad{R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "shape is not a list"},
        Bad{R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4,
            "expected a whole number >= 0, found -1"},
        Bad{R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "found 1.5"},
        Bad{R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4,
            "is too large"},
        Bad{R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", 4,
            "does not fill 4"},
        Bad{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "F32 [2] does not fill 4 bytes"},
        Bad{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "data_offsets is not a pair"},
        Bad{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "bytes 4 to 0 of 4"},
        Bad{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7,
            "bytes 0 to 8 of 7; the file is truncated"},
        Bad{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}})", 4, "of 4"},
        Bad{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5, "1 bytes after the last tensor"},
        Bad{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})", 5, "overlap or leave a gap"},
        Bad{R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
            R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
            8, "tensor 'b' begins at byte 4, expected 8"},
        Bad{R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
            R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
            4, "names \"a\" twice"},
        Bad{R"({"__metadata__": 5})", 0, "__metadata__ is not a map"},
        Bad{R"({"__metadata__": {"a": 5}})", 0, "__metadata__ 'a' is not text"}));

TEST(Safetensors, BadFiles) {
    EXPECT_THAT(complaint(""), HasSubstr("0 bytes are no safetensors file"));
    EXPECT_THAT(complaint("1234567"), HasSubstr("7 bytes are no safetensors file"));
    EXPECT_THAT(complaint("12345678"), HasSubstr("does not fit a file of 8"));
    EXPECT_THAT(complaint(std::string(8, '\xff') + "{}"),
                HasSubstr("a header of 18446744073709551615 bytes"));
    EXPECT_THAT(complaint(file_of(std::string(100000, '['), 0)), HasSubstr("not JSON"));
    const std::string deep(100000, '[');
    EXPECT_NE(complaint(file_of("{\"a\":" + deep + std::string(100000, ']') + "}", 0)), "");
    EXPECT_THROW(safetensors::read("/nonexistent/x"), RunError);
    EXPECT_THROW(safetensors::read(std::filesystem::temp_directory_path()), RunError);

    const std::string good = file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
    EXPECT_EQ(complaint(good, "a", {2}), "");
    EXPECT_THAT(complaint(good, "b", {2}), HasSubstr("has no tensor 'b'; it has: a"));
    EXPECT_THAT(complaint(good, "a", {2, 1}), HasSubstr("tensor 'a' has shape [2], expected [2, 1]"));
}

// Every truncation is noticed; any damage is either noticed or harmless.
TEST(Safetensors, DamageNeverCrashes) {
    const std::string good = file_of(R"({"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
                                     R"("b":{"dtype":"F16","shape":[3],"data_offsets":[8,14]}})",
                                     14);
    EXPECT_EQ(complaint(good, "b", {3}), "");
    for (std::size_t size = 0; size < good.size(); ++size)
        EXPECT_NE(complaint(good.substr(0, size)), "") << size;
    std::uint64_t state = 1;
    const auto draw = [&] { return (state = state * 6364136223846793005U + 1442695040888963407U) >> 33; };
    for (int i = 0; i < 5000; ++i) {
        std::string damaged = good;
        damaged[draw() % (good.size() - 14)] = static_cast<char>(draw());
        if (i % 2) damaged[draw() % (good.size() - 14)] = static_cast<char>('0' + draw() % 10);
        complaint(damaged, "a", {1, 2});
    }
}

}  // namespace
}  // namespace strata
