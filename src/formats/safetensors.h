#pragma once
// The safetensors format: eight bytes of header length (little endian), a JSON header that gives each tensor
// its type, shape and byte range, then the bytes of all tensors without gaps.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace strata::safetensors {

struct Tensor {
    std::string name;
    std::string dtype;  // F32, F64, F16, BF16, I64, U8, ...: the names of the format
    std::vector<std::int64_t> shape;
    std::span<const std::byte> data;  // row-major, not owned
};

// Bytes of one element, 0 for a type that the format does not have.
std::size_t size_of(std::string_view dtype);

// Writes a whole file or none. Tensors stand in the order given, on disk too; their bytes are not copied.
// RunError if a tensor's bytes are not those of its type and shape, or two have one name.
void write(const std::filesystem::path& path, std::span<const Tensor> tensors,
           const std::map<std::string, std::string>& metadata = {});

// What stands in a file before the bytes of these tensors, padded to a multiple of `unit` bytes, which is one
// of 8. RunError naming `path`, as of write().
std::string header_of(const std::filesystem::path& path, std::span<const Tensor> tensors,
                      const std::map<std::string, std::string>& metadata, std::size_t unit);

// A file held in memory, checked when it was read.
struct File {
    std::filesystem::path path;
    std::vector<Tensor> tensors;  // in the order of their bytes
    std::map<std::string, std::string> metadata;

    // RunError naming the file and the tensors it has, if this one is missing.
    const Tensor& tensor(std::string_view name) const;
    bool has(std::string_view name) const;

    // The values as float32, from F32, F64, F16 or BF16. RunError if type or shape is another.
    std::vector<float> floats(std::string_view name, std::span<const std::int64_t> shape) const;

    std::unique_ptr<std::byte[]> bytes;  // what `tensors` point into
};

// One read of the file, which may therefore be replaced while it is in use. RunError names file, tensor,
// found and expected, whatever the bytes are.
File read(const std::filesystem::path& path);

}  // namespace strata::safetensors
