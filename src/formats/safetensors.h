#pragma once
// safetensors: an 8-byte little-endian header length, a JSON header naming dtype, shape and byte range of every tensor,
// then the bytes. Reading checks everything before anything is used: a cut or altered file is an error, never a crash.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace strata::formats {

struct Tensor {
    std::string name;
    std::string dtype;  // F64 F32 F16 BF16 I64 U64 I32 U32 U8
    std::vector<std::int64_t> shape;
    std::span<const std::byte> data;
};

// Whole or not at all (base/file.h); the tensors' bytes are not copied.
void write_safetensors(const std::filesystem::path& path, std::span<const Tensor> tensors,
                       const std::map<std::string, std::string>& metadata);

class SafetensorsFile {
  public:
    // RunError naming the file, and the tensor where one is at fault.
    explicit SafetensorsFile(const std::filesystem::path& path);

    bool contains(const std::string& name) const { return tensors_.contains(name); }
    std::vector<std::string> names() const;
    const std::vector<std::int64_t>& shape(const std::string& name) const;

    // The tensor's bytes as they stand in the file; RunError unless dtype and shape are as given.
    std::span<const std::byte> bytes(const std::string& name, const std::string& dtype,
                                     const std::vector<std::int64_t>& shape) const;

    // Its values as float32, from F64, F32, F16 or BF16.
    std::vector<float> floats(const std::string& name, const std::vector<std::int64_t>& shape) const;

  private:
    struct Entry {
        std::string dtype;
        std::vector<std::int64_t> shape;
        std::size_t begin = 0, end = 0;  // in contents_
    };
    const Entry& entry(const std::string& name, const std::vector<std::int64_t>& shape) const;

    std::filesystem::path path_;
    std::string contents_;
    std::map<std::string, Entry> tensors_;
};

}  // namespace strata::formats
