#include "formats/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "data/convert.h"

namespace strata::formats {
namespace {

using nlohmann::json;

std::size_t element_size(const std::string& dtype) {
    static const std::map<std::string, std::size_t> sizes = {{"F64", 8}, {"I64", 8}, {"U64", 8},  {"F32", 4}, {"I32", 4},
                                                             {"U32", 4}, {"F16", 2}, {"BF16", 2}, {"U8", 1}};
    const auto found = sizes.find(dtype);
    return found == sizes.end() ? 0 : found->second;
}

// Elements of a shape; nullopt-like -1 if negative or beyond any file.
std::int64_t elements_of(const std::vector<std::int64_t>& shape) {
    std::int64_t count = 1;
    for (const std::int64_t d : shape) {
        if (d < 0 || (d > 0 && count > (std::int64_t{1} << 48) / d)) return -1;
        count *= d;
    }
    return count;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const Tensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
    nlohmann::ordered_json header;
    if (!metadata.empty()) header["__metadata__"] = metadata;
    std::size_t at = 0;
    for (const Tensor& t : tensors) {
        STRATA_ASSERT(static_cast<std::size_t>(elements_of(t.shape)) * element_size(t.dtype) == t.data.size());
        header[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {at, at + t.data.size()}}};
        at += t.data.size();
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data are aligned
    const std::uint64_t length = text.size();
    std::vector<std::span<const std::byte>> pieces = {std::as_bytes(std::span(&length, 1)), std::as_bytes(std::span(text))};
    for (const Tensor& t : tensors) pieces.push_back(t.data);
    write_file(path, pieces);
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path), contents_(read_file(path)) {
    std::uint64_t length = 0;
    if (contents_.size() < sizeof length) fail("{}: {} bytes long, no safetensors file", path.string(), contents_.size());
    std::memcpy(&length, contents_.data(), sizeof length);
    if (length > contents_.size() - sizeof length)
        fail("{}: its header is said to be {} bytes long, the file has {}; it is truncated or no safetensors file",
             path.string(), length, contents_.size());
    const std::size_t base = sizeof length + length;
    try {
        const json header = json::parse(contents_.begin() + sizeof length, contents_.begin() + static_cast<std::ptrdiff_t>(base));
        for (const auto& [name, value] : header.items()) {
            if (name == "__metadata__") continue;
            Entry e;
            e.dtype = value.at("dtype");
            e.shape = value.at("shape").get<std::vector<std::int64_t>>();
            const std::uint64_t begin = value.at("data_offsets").at(0);
            const std::uint64_t end = value.at("data_offsets").at(1);
            if (begin > end || end > contents_.size() - base)
                fail("{}: tensor '{}' lies at bytes {} to {} of {}; the file is truncated", path.string(), name, begin, end,
                     contents_.size() - base);
            const std::int64_t elements = elements_of(e.shape);
            const std::size_t size = element_size(e.dtype);
            if (size == 0) fail("{}: tensor '{}' has the unknown dtype '{}'", path.string(), name, e.dtype);
            if (elements < 0 || static_cast<std::uint64_t>(elements) * size != end - begin)
                fail("{}: tensor '{}' of shape [{}] and dtype {} does not fill its {} bytes", path.string(), name,
                     fmt::join(e.shape, ", "), e.dtype, end - begin);
            e.begin = base + begin;
            e.end = base + end;
            tensors_.emplace(name, std::move(e));
        }
    } catch (const json::exception& error) {
        fail("{}: its header is not valid: {}", path.string(), error.what());
    }
}

std::vector<std::string> SafetensorsFile::names() const {
    std::vector<std::string> names;
    for (const auto& [name, entry] : tensors_) names.push_back(name);
    return names;
}

const std::vector<std::int64_t>& SafetensorsFile::shape(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end())
        fail("{}: no tensor '{}'; it has {}", path_.string(), name, fmt::join(names(), ", "));
    return found->second.shape;
}

const SafetensorsFile::Entry& SafetensorsFile::entry(const std::string& name,
                                                     const std::vector<std::int64_t>& expected) const {
    if (shape(name) != expected)
        fail("{}: tensor '{}' has shape [{}], expected [{}]", path_.string(), name, fmt::join(shape(name), ", "),
             fmt::join(expected, ", "));
    return tensors_.at(name);
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name, const std::string& dtype,
                                                  const std::vector<std::int64_t>& expected) const {
    const Entry& e = entry(name, expected);
    if (e.dtype != dtype)
        fail("{}: tensor '{}' has dtype {}, expected {}", path_.string(), name, e.dtype, dtype);
    return std::as_bytes(std::span(contents_)).subspan(e.begin, e.end - e.begin);
}

std::vector<float> SafetensorsFile::floats(const std::string& name, const std::vector<std::int64_t>& expected) const {
    const Entry& e = entry(name, expected);
    const auto count = static_cast<std::size_t>(elements_of(e.shape));
    const std::span from = std::as_bytes(std::span(contents_)).subspan(e.begin, e.end - e.begin);
    std::vector<float> values(count);
    if (e.dtype == "F32") {
        std::memcpy(values.data(), from.data(), from.size());
    } else if (e.dtype == "F64") {
        for (std::size_t i = 0; i < count; ++i) {
            double value = 0;
            std::memcpy(&value, from.data() + i * sizeof value, sizeof value);
            values[i] = static_cast<float>(value);
        }
    } else if (e.dtype == "F16" || e.dtype == "BF16") {
        data::to_float(e.dtype == "F16" ? data::Type::float16 : data::Type::bfloat16, from, values);
    } else {
        fail("{}: tensor '{}' has dtype {}, expected F64, F32, F16 or BF16", path_.string(), name, e.dtype);
    }
    return values;
}

}  // namespace strata::formats
