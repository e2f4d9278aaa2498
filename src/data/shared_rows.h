#pragma once
// Rows that groups of ranks of one host read of the same datasets: whoever reads a piece first leaves it, as
// it came out of the file, in memory that all of them have mapped; the others take it from there. The newest
// pieces are kept, so groups share what they read as long as they are near each other; who lags behind reads
// for itself.
//
// There is no lock. Each piece's place has one word: being written, or how many are copying from it. A rank
// that is killed or stopped in between keeps that one place to itself; the others go round it, and where it
// was reading what they want, they wait for `patience` at most, once. Two that begin with the same piece
// within a microsecond may both read it.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "config/config.h"
#include "data/dataset.h"

namespace strata::data {

// Places for pieces of so many bytes at most.
struct SharedRowsSize {
    std::int64_t piece_bytes = 0, pieces = 0;
    std::int64_t bytes() const;
};

// For twice the rows that the streams of a group hold (shuffle_rows / 2), of the dataset that takes the most
// for them, target rows included: who begins when another has filled its shuffle buffer finds all of it, and
// does until the other has served it once.
SharedRowsSize shared_rows_size(const std::vector<Dataset>& datasets, const DataConfig& config);

// The dataset, and its target, read through `rows`. No other dataset may have the same `index`.
Dataset sharing(const Dataset& dataset, const std::shared_ptr<SharedRows>& rows, std::uint32_t index);

class SharedRows {
  public:
    // The first part of `memory` is of size.bytes(), and zeroed before anyone uses it.
    SharedRows(SharedMemory memory, const SharedRowsSize& size,
               std::chrono::milliseconds patience = std::chrono::milliseconds(500));

    struct Piece {
        std::uint32_t dataset = 0;  // from 1
        std::int64_t first = 0, rows = 0;
        bool operator==(const Piece&) const = default;
    };

    // Fills `out` with the bytes of a piece: those that are there, or by `read`, which fills it and says
    // whether others may have them. What `read` throws goes through. From any thread.
    void fetch(const Piece& piece, std::span<std::byte> out, const std::function<bool()>& read);

    // The longest piece of rows of so many bytes that others can have, but at least one row.
    std::int64_t most_rows(std::size_t row_bytes) const;

    // Of this process, since the start.
    std::int64_t rows_read() const { return rows_read_; }
    std::int64_t rows_taken() const { return rows_taken_; }

  private:
    struct Place;
    enum class Found { yes, no, being_read };

    Found take(const Piece& piece, std::span<std::byte> out);
    Place* claim(const Piece& piece);
    std::span<std::byte> bytes_of(const Place& place) const;

    SharedMemory memory_;
    std::atomic<std::uint64_t>* turn_;  // whose place is claimed next, the oldest
    std::span<Place> places_;
    std::span<std::byte> bytes_;
    std::size_t piece_bytes_;
    std::chrono::milliseconds patience_;
    std::atomic<std::int64_t> rows_read_ = 0, rows_taken_ = 0;
};

}  // namespace strata::data
