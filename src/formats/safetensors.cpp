#include "formats/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "data/convert.h"

static_assert(std::endian::native == std::endian::little, "the format is little endian");

namespace strata::safetensors {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t length_bytes = 8;
// The reference implementation's limit.
constexpr std::uint64_t longest_header = 100'000'000;

// Bytes of a tensor, or nothing where the product overflows or an extent is negative.
std::optional<std::uint64_t> bytes_of(std::string_view dtype, std::span<const std::int64_t> shape) {
    std::uint64_t bytes = size_of(dtype);
    for (const std::int64_t extent : shape)
        if (extent < 0 || __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes))
            return std::nullopt;
    return bytes;
}

std::string text_of(std::span<const std::int64_t> shape) {
    return fmt::format("[{}]", fmt::join(shape, ", "));
}

// A whole number that is not negative; else a RunError. `what` is the tensor and the field.
std::uint64_t whole(const Json& value, const std::filesystem::path& path, const std::string& what) {
    if (!value.is_number_unsigned())
        fail("{}: {}: expected a whole number >= 0, found {}", path.string(), what,
             value.dump(-1, ' ', true));
    return value.get<std::uint64_t>();
}

// One entry of the header. `data` is what follows the header.
Tensor parse_tensor(const std::filesystem::path& path, const std::string& name, const Json& entry,
                    std::span<const std::byte> data) {
    const auto field = [&](const char* key) -> const Json& {
        const auto found = entry.is_object() ? entry.find(key) : entry.end();
        if (found == entry.end()) fail("{}: tensor '{}': the header gives no {}", path.string(), name, key);
        return *found;
    };
    const Json& dtype = field("dtype");
    const Json& shape = field("shape");
    const Json& offsets = field("data_offsets");
    if (!dtype.is_string() || size_of(dtype.get<std::string>()) == 0)
        fail("{}: tensor '{}': unknown dtype {}", path.string(), name, dtype.dump(-1, ' ', true));
    if (!shape.is_array()) fail("{}: tensor '{}': shape is not a list", path.string(), name);
    if (!offsets.is_array() || offsets.size() != 2)
        fail("{}: tensor '{}': data_offsets is not a pair", path.string(), name);

    Tensor tensor{name, dtype.get<std::string>(), {}, {}};
    for (const Json& extent : shape) {
        const std::uint64_t value = whole(extent, path, fmt::format("tensor '{}': shape", name));
        if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
            fail("{}: tensor '{}': extent {} is too large", path.string(), name, value);
        tensor.shape.push_back(static_cast<std::int64_t>(value));
    }
    const std::uint64_t begin = whole(offsets[0], path, fmt::format("tensor '{}': data_offsets", name));
    const std::uint64_t end = whole(offsets[1], path, fmt::format("tensor '{}': data_offsets", name));
    if (begin > end || end > data.size())
        fail("{}: tensor '{}': bytes {} to {} of {}; the file is truncated or its header is wrong",
             path.string(), name, begin, end, data.size());
    const auto bytes = bytes_of(tensor.dtype, tensor.shape);
    if (!bytes || *bytes != end - begin)
        fail("{}: tensor '{}': {} {} does not fill {} bytes", path.string(), name, tensor.dtype,
             text_of(tensor.shape), end - begin);
    tensor.data = data.subspan(begin, end - begin);
    return tensor;
}

std::map<std::string, std::string> parse_metadata(const std::filesystem::path& path, const Json& entry) {
    std::map<std::string, std::string> metadata;
    if (!entry.is_object()) fail("{}: __metadata__ is not a map", path.string());
    for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) fail("{}: __metadata__ '{}' is not text", path.string(), key);
        metadata[key] = value.get<std::string>();
    }
    return metadata;
}

std::pair<std::unique_ptr<std::byte[]>, std::size_t> read_bytes(const std::filesystem::path& path) {
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    if (error) fail("{}: cannot read: {}", path.string(), error.message());
    std::ifstream in(path, std::ios::binary);
    auto bytes = std::make_unique_for_overwrite<std::byte[]>(size);
    if (!in.read(reinterpret_cast<char*>(bytes.get()), static_cast<std::streamsize>(size)))
        fail("{}: cannot read its {} bytes: {}", path.string(), size, std::strerror(errno));
    return {std::move(bytes), size};
}

// float32 from 16 bits, by the converter of activation files, which wants elements at their natural
// alignment.
std::vector<float> widened(data::Type type, std::span<const std::byte> in) {
    std::vector<float> out(in.size() / sizeof(std::uint16_t));
    std::vector<std::uint16_t> aligned;
    if (reinterpret_cast<std::uintptr_t>(in.data()) % alignof(std::uint16_t) != 0) {
        aligned.resize(out.size());
        std::memcpy(aligned.data(), in.data(), in.size());
        in = std::as_bytes(std::span(aligned));
    }
    data::to_float(type, in, out);
    return out;
}

}  // namespace

std::size_t size_of(std::string_view dtype) {
    static constexpr std::array<std::pair<std::string_view, std::size_t>, 15> sizes = {{{"F64", 8},
                                                                                        {"F32", 4},
                                                                                        {"F16", 2},
                                                                                        {"BF16", 2},
                                                                                        {"I64", 8},
                                                                                        {"I32", 4},
                                                                                        {"I16", 2},
                                                                                        {"I8", 1},
                                                                                        {"U64", 8},
                                                                                        {"U32", 4},
                                                                                        {"U16", 2},
                                                                                        {"U8", 1},
                                                                                        {"BOOL", 1},
                                                                                        {"F8_E5M2", 1},
                                                                                        {"F8_E4M3", 1}}};
    for (const auto& [name, size] : sizes)
        if (name == dtype) return size;
    return 0;
}

std::string header_of(const std::filesystem::path& path, std::span<const Tensor> tensors,
                      const std::map<std::string, std::string>& metadata, std::size_t unit) {
    Json header = Json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    std::uint64_t offset = 0;
    for (const Tensor& tensor : tensors) {
        const auto bytes = bytes_of(tensor.dtype, tensor.shape);
        if (size_of(tensor.dtype) == 0 || bytes != tensor.data.size())
            fail("{}: tensor '{}': {} {} does not fill {} bytes", path.string(), tensor.name, tensor.dtype,
                 text_of(tensor.shape), tensor.data.size());
        if (header.contains(tensor.name) || tensor.name == "__metadata__")
            fail("{}: the name '{}' is taken", path.string(), tensor.name);
        header[tensor.name] = {{"dtype", tensor.dtype},
                               {"shape", tensor.shape},
                               {"data_offsets", {offset, offset + tensor.data.size()}}};
        offset += tensor.data.size();
    }
    std::string text(length_bytes, '\0');
    text += header.dump(-1, ' ', false, Json::error_handler_t::replace);
    // Spaces are the format's own padding, and let readers map the tensors in place.
    text.resize((text.size() + unit - 1) / unit * unit, ' ');
    const std::uint64_t length = text.size() - length_bytes;
    std::memcpy(text.data(), &length, length_bytes);
    return text;
}

void write(const std::filesystem::path& path, std::span<const Tensor> tensors,
           const std::map<std::string, std::string>& metadata) {
    const std::string header = header_of(path, tensors, metadata, length_bytes);
    std::vector<std::span<const std::byte>> pieces = {std::as_bytes(std::span(header))};
    for (const Tensor& tensor : tensors) pieces.push_back(tensor.data);
    write_file(path, pieces);
}

bool File::has(std::string_view name) const {
    return std::any_of(tensors.begin(), tensors.end(),
                       [&](const Tensor& tensor) { return tensor.name == name; });
}

const Tensor& File::tensor(std::string_view name) const {
    std::vector<std::string_view> names;
    for (const Tensor& tensor : tensors) {
        if (tensor.name == name) return tensor;
        names.push_back(tensor.name);
    }
    fail("{}: has no tensor '{}'; it has: {}", path.string(), name, fmt::join(names, ", "));
}

std::vector<float> File::floats(std::string_view name, std::span<const std::int64_t> shape) const {
    const Tensor& found = tensor(name);
    if (!std::equal(shape.begin(), shape.end(), found.shape.begin(), found.shape.end()))
        fail("{}: tensor '{}' has shape {}, expected {}", path.string(), name, text_of(found.shape),
             text_of(shape));
    STRATA_ASSERT(size_of(found.dtype) > 0);  // read() has checked
    const std::size_t size = found.data.size() / size_of(found.dtype);
    if (found.dtype == "F16") return widened(data::Type::float16, found.data);
    if (found.dtype == "BF16") return widened(data::Type::bfloat16, found.data);
    std::vector<float> values(size);
    if (found.dtype == "F32") {
        if (size > 0) std::memcpy(values.data(), found.data.data(), found.data.size());
    } else if (found.dtype == "F64") {
        for (std::size_t i = 0; i < size; ++i) {
            double value{};
            std::memcpy(&value, found.data.data() + i * sizeof(double), sizeof(double));
            values[i] = static_cast<float>(value);
        }
    } else {
        fail("{}: tensor '{}' has dtype {}, expected F32, F64, F16 or BF16", path.string(), name,
             found.dtype);
    }
    return values;
}

File read(const std::filesystem::path& path) {
    File file;
    file.path = path;
    auto [bytes, size] = read_bytes(path);
    file.bytes = std::move(bytes);
    std::uint64_t length = 0;
    if (size < length_bytes) fail("{}: {} bytes are no safetensors file", path.string(), size);
    std::memcpy(&length, file.bytes.get(), length_bytes);
    if (length > longest_header || length > size - length_bytes)
        fail("{}: a header of {} bytes does not fit a file of {}; it is truncated or no safetensors file",
             path.string(), length, size);

    const char* text = reinterpret_cast<const char*>(file.bytes.get()) + length_bytes;
    // A name twice would hide one of the two tensors.
    std::vector<std::set<std::string>> seen;
    const auto unique = [&](int, Json::parse_event_t event, Json& value) {
        if (event == Json::parse_event_t::object_start) seen.emplace_back();
        if (event == Json::parse_event_t::object_end) seen.pop_back();
        if (event == Json::parse_event_t::key && !seen.back().insert(value.get<std::string>()).second)
            fail("{}: the header names {} twice", path.string(), value.dump(-1, ' ', true));
        return true;
    };
    Json header;
    try {
        header = Json::parse(text, text + length, unique);
    } catch (const Json::exception& error) {
        fail("{}: the header is not JSON: {}", path.string(), error.what());
    }
    if (!header.is_object()) fail("{}: the header is not a map of tensors", path.string());

    const std::span data(file.bytes.get() + length_bytes + length, size - length_bytes - length);
    for (const auto& [name, entry] : header.items()) {
        if (name == "__metadata__")
            file.metadata = parse_metadata(path, entry);
        else
            file.tensors.push_back(parse_tensor(path, name, entry, data));
    }
    std::stable_sort(file.tensors.begin(), file.tensors.end(), [](const Tensor& a, const Tensor& b) {
        return std::pair(a.data.data(), a.data.size()) < std::pair(b.data.data(), b.data.size());
    });
    const std::byte* end = data.data();
    for (const Tensor& tensor : file.tensors) {
        if (tensor.data.data() != end)
            fail("{}: tensor '{}' begins at byte {}, expected {}: tensors overlap or leave a gap",
                 path.string(), tensor.name, tensor.data.data() - data.data(), end - data.data());
        end += tensor.data.size();
    }
    if (end != data.data() + data.size())
        fail("{}: {} bytes after the last tensor belong to none", path.string(),
             data.data() + data.size() - end);
    return file;
}

}  // namespace strata::safetensors
