#include "data/shared_rows.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "data/lane.h"

namespace strata::data {
namespace {

constexpr std::uint32_t being_written = std::uint32_t{1} << 31;
constexpr std::int64_t alignment = 64;
constexpr std::int64_t place_bytes = 24;  // without the piece's own

std::int64_t aligned(std::int64_t bytes) {
    return (bytes + alignment - 1) / alignment * alignment;
}

}  // namespace

// Zeroed memory is a place without a piece.
struct SharedRows::Place {
    std::atomic<std::uint32_t> state;  // being_written, or how many are copying from it
    // The piece; changed only while being written. dataset 0: none.
    std::atomic<std::uint32_t> dataset;
    std::atomic<std::int64_t> first, rows;

    bool holds(const Piece& piece) const {
        return first.load(std::memory_order_relaxed) == piece.first &&
               dataset.load(std::memory_order_relaxed) == piece.dataset &&
               rows.load(std::memory_order_relaxed) == piece.rows;
    }
    void set(const Piece& piece) {
        dataset.store(piece.dataset, std::memory_order_relaxed);
        first.store(piece.first, std::memory_order_relaxed);
        rows.store(piece.rows, std::memory_order_relaxed);
    }
    bool pin() {
        std::uint32_t now = state.load(std::memory_order_relaxed);
        while ((now & being_written) == 0)
            if (state.compare_exchange_weak(now, now + 1, std::memory_order_acquire)) return true;
        return false;
    }
    void unpin() { state.fetch_sub(1, std::memory_order_release); }
    bool lock() {
        std::uint32_t unused = 0;
        return state.compare_exchange_strong(unused, being_written, std::memory_order_acquire);
    }
    void unlock() { state.store(0, std::memory_order_release); }
};

static_assert(std::atomic<std::int64_t>::is_always_lock_free &&
                  std::atomic<std::uint32_t>::is_always_lock_free,
              "words of memory that processes share");

std::int64_t SharedRowsSize::bytes() const {
    return aligned(alignment + pieces * place_bytes) + pieces * piece_bytes;
}

SharedRowsSize shared_rows_size(const std::vector<Dataset>& datasets, const DataConfig& config) {
    SharedRowsSize size;
    for (const Dataset& dataset : datasets) {
        const std::int64_t rows = training_rows(dataset, config);
        const std::int64_t block = block_rows_for(config, rows);
        const std::int64_t run = std::min(run_rows_for(dataset, rows, config.lanes), block);
        const auto row_bytes = [](const Dataset& one) {
            std::size_t most = 0;
            for (const FilePart& part : one.parts) most = std::max(most, size_of(part.type));
            return static_cast<std::int64_t>(most) * one.n;
        };
        const std::int64_t widest =
            std::max(row_bytes(dataset), dataset.target ? row_bytes(*dataset.target) : 0);
        size.piece_bytes = std::max(size.piece_bytes, aligned(run * widest));
        // A lane's block begins and ends within a run.
        const std::int64_t pieces = 2 * config.lanes * ((block + run - 1) / run + 1);
        size.pieces = std::max(size.pieces, pieces * (dataset.target ? 2 : 1));
    }
    return size;
}

Dataset sharing(const Dataset& dataset, const std::shared_ptr<SharedRows>& rows, std::uint32_t index) {
    Dataset result = dataset;
    result.shared = rows;
    result.number = 2 * index + 1;
    if (!dataset.target) return result;
    Dataset target = *dataset.target;
    target.shared = rows;
    target.number = 2 * index + 2;
    result.target = std::make_shared<const Dataset>(std::move(target));
    return result;
}

SharedRows::SharedRows(SharedMemory memory, const SharedRowsSize& size, std::chrono::milliseconds patience)
    : memory_(std::move(memory)),
      piece_bytes_(static_cast<std::size_t>(size.piece_bytes)),
      patience_(patience) {
    static_assert(sizeof(Place) == place_bytes);
    const std::span<std::byte> all = memory_.of_rank.front();
    STRATA_ASSERT(all.size() == static_cast<std::size_t>(size.bytes()));
    turn_ = reinterpret_cast<std::atomic<std::uint64_t>*>(all.data());
    places_ = {reinterpret_cast<Place*>(all.data() + alignment), static_cast<std::size_t>(size.pieces)};
    bytes_ = all.last(static_cast<std::size_t>(size.pieces) * piece_bytes_);
}

std::span<std::byte> SharedRows::bytes_of(const Place& place) const {
    return bytes_.subspan(static_cast<std::size_t>(&place - places_.data()) * piece_bytes_, piece_bytes_);
}

std::int64_t SharedRows::most_rows(std::size_t row_bytes) const {
    return static_cast<std::int64_t>(std::max<std::size_t>(1, piece_bytes_ / row_bytes));
}

SharedRows::Found SharedRows::take(const Piece& piece, std::span<std::byte> out) {
    Found found = Found::no;
    for (Place& place : places_) {
        if (!place.holds(piece)) continue;
        if (!place.pin()) {
            found = Found::being_read;
            continue;
        }
        const bool still = place.holds(piece);
        if (still) std::memcpy(out.data(), bytes_of(place).data(), out.size());
        place.unpin();
        if (still) return Found::yes;
    }
    return found;
}

SharedRows::Place* SharedRows::claim(const Piece& piece) {
    for (std::size_t tries = 0; tries < places_.size(); ++tries) {
        Place& place = places_[turn_->fetch_add(1, std::memory_order_relaxed) % places_.size()];
        if (!place.lock()) continue;
        place.set(piece);
        return &place;
    }
    return nullptr;
}

void SharedRows::fetch(const Piece& piece, std::span<std::byte> out, const std::function<bool()>& read) {
    const bool fits = out.size() <= piece_bytes_;
    Found found = fits ? take(piece, out) : Found::no;
    for (const auto begun = std::chrono::steady_clock::now();
         found == Found::being_read && std::chrono::steady_clock::now() - begun < patience_;
         found = take(piece, out))
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    if (found == Found::yes) {
        rows_taken_ += piece.rows;
        return;
    }
    Place* const place = fits && found == Found::no ? claim(piece) : nullptr;
    bool whole = false;
    try {
        whole = read();
    } catch (...) {
        if (place != nullptr) {
            place->set({});
            place->unlock();
        }
        throw;
    }
    rows_read_ += piece.rows;
    if (place == nullptr) return;
    if (whole)
        std::memcpy(bytes_of(*place).data(), out.data(), out.size());
    else
        place->set({});
    place->unlock();
}

}  // namespace strata::data
