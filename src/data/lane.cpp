#include "data/lane.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "data/convert.h"
#include "data/norm.h"

namespace strata::data {
namespace {

// Row i of slots of so many bytes.
template <typename Bytes>
std::span<Bytes> row_at(std::span<Bytes> rows, std::size_t i, std::size_t row_bytes) {
    return rows.subspan(i * row_bytes, row_bytes);
}

// Asks for a row that is served soon. Shuffled rows lie anywhere in the block, so no hardware looks ahead.
void fetch(std::span<const std::byte> row) {
    for (std::size_t i = 0; i < row.size(); i += 64) __builtin_prefetch(&row[i]);
}

}  // namespace

Type type_of(const Dataset& dataset) {
    const Type first = dataset.parts.front().type;
    const bool same =
        std::ranges::all_of(dataset.parts, [&](const FilePart& part) { return part.type == first; });
    return same ? first : Type::float32;
}

std::int64_t block_rows_for(const DataConfig& config, std::int64_t rows) {
    const std::int64_t longest_range = (rows + config.lanes - 1) / config.lanes;
    return std::clamp<std::int64_t>(config.shuffle_rows / (2 * config.lanes), 1, longest_range);
}

HeldRows::HeldRows(const Dataset& dataset_, std::int64_t longest_run)
    : dataset(dataset_), reader(dataset_), type(type_of(dataset_)) {
    staging_.reset(static_cast<std::size_t>(longest_run) * row_bytes());
}

std::span<const std::byte> HeldRows::read(const Run& run) {
    const auto bytes = std::span<std::byte>(staging_).first(static_cast<std::size_t>(run.rows) * row_bytes());
    for (std::int64_t done = 0, rows = 0; done < run.rows; done += rows) {
        const std::int64_t first = run.first + done;
        const FilePart& part = part_of(dataset, first);
        rows = std::min(run.rows - done, part.first + part.rows - first);
        const auto to = bytes.subspan(static_cast<std::size_t>(done) * row_bytes(),
                                      static_cast<std::size_t>(rows) * row_bytes());
        if (part.type == type)
            reader.read_raw(first, rows, to);
        else
            reader.read(first, {reinterpret_cast<float*>(to.data()), to.size() / sizeof(float)});
    }
    return bytes;
}

LaneSource::LaneSource(const Dataset& dataset_, const DataConfig& config, const InputStatistics& statistics,
                       std::uint64_t seed_)
    : rows(training_rows(dataset_, config)),
      lanes(config.lanes),
      block_rows(block_rows_for(config, rows)),
      runs(dataset_, rows, run_rows_for(dataset_, rows, config.lanes)),
      x(dataset_, std::min(runs.run_rows(), block_rows)),
      norm_limit(statistics.norm_limit),
      seed(seed_) {
    if (dataset_.target) target.emplace(*dataset_.target, std::min(runs.run_rows(), block_rows));
}

std::shared_ptr<const PassOrder> LaneSource::order(std::uint64_t pass) {
    if (auto known = orders_[pass].lock()) return known;
    std::erase_if(orders_, [](const auto& entry) { return entry.second.expired(); });
    auto made = std::make_shared<const PassOrder>(runs, seed, pass);
    orders_[pass] = made;
    return made;
}

Lane::Lane(LaneSource& source, std::int64_t index, const LaneCursor& cursor, const Slots& slots)
    : source_(source), index_(index), cursor_(cursor), slots_(slots) {
    free_.resize(static_cast<std::size_t>(source.block_rows));
    std::iota(free_.rbegin(), free_.rend(), 0U);  // taken from the end, so the first block lies in order
}

Run Lane::range() const {
    const std::int64_t begin = index_ * source_.rows / source_.lanes;
    return {begin, (index_ + 1) * source_.rows / source_.lanes - begin};
}

std::pair<std::uint64_t, std::uint64_t> Lane::after(std::uint64_t pass, std::uint64_t number) const {
    const bool more = static_cast<std::int64_t>(number + 1) * source_.block_rows < range().rows;
    return more ? std::pair(pass, number + 1) : std::pair(pass + 1, std::uint64_t{0});
}

void Lane::open(Block& block, std::uint64_t pass, std::uint64_t number) {
    if (!block.pass_order || block.pass != pass) block.pass_order = source_.order(pass);
    block.pass = pass;
    block.number = number;
    const Run whole = range();
    block.begin = whole.first + static_cast<std::int64_t>(number) * source_.block_rows;
    block.end = std::min(block.begin + source_.block_rows, whole.first + whole.rows);
    block.order.clear();
    block.left_out = {};
    block.failure = nullptr;
    block.opened = true;
    advance(block);
}

// To the next run of the block; after the last, to the order in which it is served.
void Lane::advance(Block& block) {
    block.loaded = block.failure || block.begin >= block.end;
    if (!block.loaded)
        block.next = block.pass_order->first_piece(block.begin, block.end);
    else
        shuffle(std::span(block.order),
                Random(source_.seed, Purpose::row_order,
                       (block.pass << 48) ^ (static_cast<std::uint64_t>(index_) << 32) ^ block.number));
}

// Rows of the dataset into free slots, those over the limit left out. Only x decides, but a target that
// cannot be used is an error, or corrupts the row, whatever the norm.
void Lane::read(Block& block, const Run& run) {
    HeldRows& x = source_.x;
    std::optional<HeldRows>& target = source_.target;
    const std::span<const std::byte> x_rows = x.read(run);
    const std::span<const std::byte> target_rows = target ? target->read(run) : std::span<const std::byte>();
    for (std::int64_t r = 0; r < run.rows; ++r) {
        const auto x_row = x.row(x_rows, r);
        const double squared = squared_norm(x.type, x_row, x.dataset, run.first + r);
        bool usable = !std::isnan(squared);
        std::span<const std::byte> target_row;
        if (target) {
            target_row = target->row(target_rows, r);
            usable = is_usable(target->type, target_row, target->dataset, run.first + r) && usable;
        }
        if (!usable || !within_limit(squared, source_.norm_limit)) {
            ++(usable ? block.left_out.skipped : block.left_out.corrupt);
            continue;
        }
        const std::uint32_t slot = free_.back();
        free_.pop_back();
        block.order.push_back(slot);
        copy_past_cache(x_row, row_at(slots_.x, slot, x_row.size()));
        if (target) copy_past_cache(target_row, row_at(slots_.target, slot, target_row.size()));
    }
}

// The next run of a block, for which there must be room.
void Lane::read_run(Block& block) {
    if (source_.abandoned) throw Abandoned{};
    STRATA_ASSERT(block.next.rows <= std::ssize(free_));
    try {
        read(block, block.next);
    } catch (...) {
        block.failure = std::current_exception();
    }
    block.begin += block.next.rows;
    advance(block);
}

void Lane::begin_block() {
    if (!current_.opened) open(current_, cursor_.pass, cursor_.block);
    while (!current_.loaded) read_run(current_);
    if (current_.failure) std::rethrow_exception(current_.failure);
    if (cursor_.offset > current_.order.size()) {
        const std::string where =
            fmt::format("{}: the saved position of lane {} is row {} of a block that has {}",
                        source_.x.dataset.name, index_, cursor_.offset, current_.order.size());
        // A chunk that was whole when the block was begun; there is no other way on.
        if (current_.left_out.corrupt == 0) fail("{}; the files are not those of the checkpoint", where);
        log::warn("{}: rows have become corrupt since; the lane goes on behind the block", where);
        cursor_.offset = current_.order.size();
    }
    const LeftOut& left_out = current_.left_out;
    if (cursor_.offset == 0) {
        cursor_.skipped += left_out.skipped;
        cursor_.corrupt += left_out.corrupt;
    }
    const auto served = current_.order.begin() + static_cast<std::ptrdiff_t>(cursor_.offset);
    free_.insert(free_.end(), current_.order.begin(), served);
    begun_ = true;
    if (!current_.order.empty()) {
        in_a_row_ = {};
        return;
    }
    in_a_row_.skipped += left_out.skipped;
    in_a_row_.corrupt += left_out.corrupt;
    // A whole pass of the lane and some thousand rows: far beyond any share of outliers that training could
    // bear.
    const std::uint64_t rows = in_a_row_.skipped + in_a_row_.corrupt;
    if (rows < static_cast<std::uint64_t>(std::max<std::int64_t>(range().rows, 4096))) return;
    if (in_a_row_.corrupt > 0)
        fail(
            "{}: of {} rows of lane {} one after another {} are corrupt and the others over the norm limit; "
            "`strata data check` tells what is wrong with the files: restore them or leave them out",
            source_.x.dataset.name, rows, index_, in_a_row_.corrupt);
    fail(
        "{}: {} rows of lane {} one after another have a norm above the limit {:.6g}; raise "
        "data.max_norm_ratio (0 keeps all rows), or look at the files with `strata data check`",
        source_.x.dataset.name, rows, index_, source_.norm_limit);
}

void Lane::end_block() {
    std::tie(cursor_.pass, cursor_.block) = after(cursor_.pass, cursor_.block);
    cursor_.offset = 0;
    current_.opened = false;
    std::swap(current_, next_);
    begun_ = false;
}

void Lane::serve(BatchRoom& batch, std::int64_t first, std::int64_t rows) {
    const std::size_t x_bytes = source_.x.row_bytes();
    const std::size_t target_bytes = source_.target ? source_.target->row_bytes() : 0;
    for (std::int64_t row = first; row < first + rows;) {
        if (!begun_) begin_block();
        if (cursor_.offset == current_.order.size()) {
            end_block();
            continue;
        }
        const std::uint32_t slot = current_.order[cursor_.offset++];
        if (cursor_.offset + 1 < current_.order.size()) {
            const std::uint32_t soon = current_.order[cursor_.offset + 1];
            fetch(row_at(slots_.x, soon, x_bytes));
            fetch(row_at(slots_.target, soon, target_bytes));
        }
        batch.put(row++, row_at(slots_.x, slot, x_bytes), row_at(slots_.target, slot, target_bytes));
        free_.push_back(slot);
    }
}

bool Lane::read_ahead() {
    if (!begun_) return false;
    if (!next_.opened) {
        const auto [pass, number] = after(current_.pass, current_.number);
        open(next_, pass, number);
    }
    if (next_.loaded || next_.next.rows > std::ssize(free_)) return false;
    read_run(next_);
    return true;
}

}  // namespace strata::data
