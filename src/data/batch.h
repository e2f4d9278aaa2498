#pragma once
// A batch between the rows that were read and the device that trains on them.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/memory.h"
#include "data/dataset.h"
#include "device/device.h"

namespace strata::data {

struct Batch {
    std::span<const float> x = {};  // [rows, n], scaled; empty where a parcel has them
    std::int64_t rows = 0;          // of this rank
    std::int64_t first = 0;         // global index of the first of them
    // [rows, n], scaled as x; row i is that of x's row i. Empty where the dataset has no target.
    std::span<const float> target = {};
    std::uint64_t number = 0;  // no other batch of this process has it; 0: not known
    const device::Parcel* parcel = nullptr;
};

// As a device takes them.
inline device::Rows rows_of(const Batch& batch) {
    return {batch.x, batch.rows, batch.target, batch.number, batch.parcel};
}

// Where the rows of a batch are put: in host memory, as float32, or, for a device that fetches them, as they
// are held in a parcel. Both are `scale` times the rows, with the same bits.
class BatchRoom {
  public:
    // For up to `rows` rows of n elements of type x, with targets of another type if the dataset has them.
    // `device`: whose parcel; null: host memory.
    BatchRoom(device::Device* device, std::int64_t rows, std::int64_t n, Type x, std::optional<Type> target,
              float scale);

    // Returns when rows may be put: those of the batch before have left.
    void open();
    // Row i; `target` is empty where there is none. `x` and `target` are read at once.
    void put(std::int64_t i, std::span<const std::byte> x, std::span<const std::byte> target);
    // Rows [0, rows) are there: a parcel goes on its way.
    void send(std::int64_t rows);

    // What was sent, until the next open().
    Batch batch(std::int64_t first, std::uint64_t number) const;

  private:
    // Rows of one of the two.
    struct Part {
        Type type = Type::float32;
        std::span<std::byte> held;  // the parcel's; empty: converted
        Array<float> converted;
    };
    void put(Part& part, std::int64_t i, std::span<const std::byte> row) const;

    std::int64_t n_, rows_ = 0;
    float scale_;
    std::unique_ptr<device::Parcel> parcel_;  // null: host memory
    Part x_;
    std::optional<Part> target_;
};

}  // namespace strata::data
