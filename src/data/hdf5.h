#pragma once
// The little of HDF5 that activation files need: owned handles, one sentence per failure, the 16-bit float
// types.

#include <hdf5.h>

#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "data/dataset.h"

namespace strata::data {

// Held around every group of calls: some builds of the library are not thread-safe, and those that are have
// one global lock anyway. Also turns off the library's own printing, a setting of the calling thread.
class Hdf5Lock {
  public:
    Hdf5Lock();

  private:
    std::lock_guard<std::recursive_mutex> lock_;
};

// Owns any HDF5 identifier. Negative: none.
class Handle {
  public:
    Handle() = default;
    explicit Handle(hid_t id) : id_(id) {}
    Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
    Handle& operator=(Handle&& other) noexcept {
        std::swap(id_, other.id_);
        return *this;
    }
    ~Handle();
    hid_t get() const { return id_; }
    explicit operator bool() const { return id_ >= 0; }
    hid_t release() { return std::exchange(id_, H5I_INVALID_HID); }

  private:
    hid_t id_ = H5I_INVALID_HID;
};

// Why the last HDF5 call of this thread failed, as part of a sentence, with advice where there is some.
std::string hdf5_reason();

// Little-endian element type as it is in files: numpy's float16; bfloat16 as 1 sign, 8 exponent, 7 mantissa
// bits.
Handle hdf5_type(Type type);

// nullopt: an element type that Strata does not read.
std::optional<Type> type_of(hid_t datatype);

// "64-bit float", "32-bit integer", "big-endian 16-bit float", ...
std::string describe_type(hid_t datatype);

// Opens a file for reading. UsageError with the reason.
Handle open_file(const std::string& path);

// Opens a dataset without a chunk cache: the stream reads each chunk once, so a cache would only copy. Empty
// handle where there is no such dataset.
Handle open_dataset(hid_t file, const std::string& name);

// Reads rows [first, first + rows) of a two-dimensional dataset as `type`. False: hdf5_reason() says why.
bool read_rows(hid_t dataset, hid_t type, std::int64_t first, std::int64_t rows, std::int64_t n, void* out);

// Scalar attributes; nullopt where absent or of another kind.
std::optional<std::string> text_attribute(hid_t object, const char* name);
std::optional<double> number_attribute(hid_t object, const char* name);

}  // namespace strata::data
