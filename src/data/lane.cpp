#include "data/lane.h"

#include <algorithm>
#include <tuple>

#include "base/error.h"
#include "base/random.h"
#include "data/convert.h"
#include "data/norm.h"

namespace strata::data {
namespace {

Type common_type(const Dataset& dataset) {
    const Type first = dataset.parts.front().type;
    const bool same =
        std::ranges::all_of(dataset.parts, [&](const FilePart& part) { return part.type == first; });
    return same ? first : Type::float32;
}

std::int64_t block_rows_for(const DataConfig& config, std::int64_t rows) {
    const std::int64_t longest_range = (rows + config.lanes - 1) / config.lanes;
    return std::clamp<std::int64_t>(config.shuffle_rows / (2 * config.lanes), 1, longest_range);
}

}  // namespace

LaneSource::LaneSource(const Dataset& dataset_, const DataConfig& config, const InputStatistics& statistics,
                       std::uint64_t seed_)
    : dataset(dataset_),
      reader(dataset_),
      rows(training_rows(dataset_, config)),
      lanes(config.lanes),
      block_rows(block_rows_for(config, rows)),
      runs(dataset_, rows, run_rows_for(dataset_, rows, config.lanes)),
      held(common_type(dataset_)),
      norm_limit(statistics.norm_limit),
      scale(static_cast<float>(statistics.scale)),
      seed(seed_) {}

std::shared_ptr<const PassOrder> LaneSource::order(std::uint64_t pass) {
    if (auto known = orders_[pass].lock()) return known;
    std::erase_if(orders_, [](const auto& entry) { return entry.second.expired(); });
    auto made = std::make_shared<const PassOrder>(runs, seed, pass);
    orders_[pass] = made;
    return made;
}

Lane::Lane(LaneSource& source, std::int64_t index, const LaneCursor& cursor, std::span<std::byte> memory,
           std::span<std::byte> other_memory)
    : source_(source), index_(index), cursor_(cursor) {
    current_.memory = memory;
    next_.memory = other_memory;
}

Run Lane::range() const {
    const std::int64_t begin = index_ * source_.rows / source_.lanes;
    return {begin, (index_ + 1) * source_.rows / source_.lanes - begin};
}

std::pair<std::uint64_t, std::uint64_t> Lane::after(std::uint64_t pass, std::uint64_t number) const {
    const bool more = static_cast<std::int64_t>(number + 1) * source_.block_rows < range().rows;
    return more ? std::pair(pass, number + 1) : std::pair(pass + 1, std::uint64_t{0});
}

// Reads rows of the dataset to the end of the block and checks them.
void Lane::read(Block& block, const Run& rows) {
    if (source_.abandoned) throw Abandoned{};
    const std::size_t row_bytes = source_.row_bytes();
    const auto n = static_cast<std::size_t>(source_.dataset.n);
    const auto at = block.order.size() + static_cast<std::size_t>(block.skipped);
    const auto memory = block.memory.subspan(at * row_bytes, static_cast<std::size_t>(rows.rows) * row_bytes);
    if (part_of(source_.dataset, rows.first).type == source_.held)
        source_.reader.read_raw(rows.first, rows.rows, memory);
    else
        source_.reader.read(
            rows.first, {reinterpret_cast<float*>(memory.data()), static_cast<std::size_t>(rows.rows) * n});
    for (std::int64_t r = 0; r < rows.rows; ++r) {
        const auto row = memory.subspan(static_cast<std::size_t>(r) * row_bytes, row_bytes);
        const double squared = squared_norm(source_.held, row, source_.dataset, rows.first + r);
        if (within_limit(squared, source_.norm_limit))
            block.order.push_back(static_cast<std::uint32_t>(at + static_cast<std::size_t>(r)));
        else
            ++block.skipped;
    }
}

void Lane::load(Block& block, std::uint64_t pass, std::uint64_t number) {
    if (!block.pass_order || block.pass != pass) block.pass_order = source_.order(pass);
    block.pass = pass;
    block.number = number;
    block.order.clear();
    block.skipped = 0;
    block.failure = nullptr;
    const Run whole = range();
    const std::int64_t begin = whole.first + static_cast<std::int64_t>(number) * source_.block_rows;
    const std::int64_t end = std::min(begin + source_.block_rows, whole.first + whole.rows);
    try {
        block.pass_order->visit(begin, end, [&](const Run& rows) { read(block, rows); });
    } catch (const Abandoned&) {
        throw;
    } catch (...) {
        block.failure = std::current_exception();
    }
    shuffle(std::span(block.order),
            Random(source_.seed, Purpose::row_order,
                   (pass << 48) ^ (static_cast<std::uint64_t>(index_) << 32) ^ number));
    block.loaded = true;
}

void Lane::begin_block() {
    if (!current_.loaded) load(current_, cursor_.pass, cursor_.block);
    if (current_.failure) std::rethrow_exception(current_.failure);
    if (cursor_.offset > current_.order.size())
        fail(
            "{}: the saved position of lane {} is row {} of a block that has {}; the files are not those of "
            "the "
            "checkpoint",
            source_.dataset.name, index_, cursor_.offset, current_.order.size());
    if (cursor_.offset == 0) cursor_.skipped += current_.skipped;
    begun_ = true;
    // A whole pass of the lane and some thousand rows: far beyond any share of outliers that training could
    // bear.
    skipped_in_a_row_ =
        current_.order.empty() ? skipped_in_a_row_ + static_cast<std::int64_t>(current_.skipped) : 0;
    if (skipped_in_a_row_ >= std::max<std::int64_t>(range().rows, 4096))
        fail(
            "{}: {} rows of lane {} one after another have a norm above the limit {:.6g}; raise "
            "data.max_norm_ratio "
            "(0 keeps all rows), or look at the files with `strata data check`",
            source_.dataset.name, skipped_in_a_row_, index_, source_.norm_limit);
}

void Lane::end_block() {
    std::tie(cursor_.pass, cursor_.block) = after(cursor_.pass, cursor_.block);
    cursor_.offset = 0;
    current_.loaded = false;
    if (next_.loaded) std::swap(current_, next_);
    begun_ = false;
}

void Lane::serve(std::span<float> out) {
    const auto n = static_cast<std::size_t>(source_.dataset.n);
    const std::size_t row_bytes = source_.row_bytes();
    while (!out.empty()) {
        if (!begun_) begin_block();
        if (cursor_.offset == current_.order.size()) {
            end_block();
            continue;
        }
        const std::size_t row = current_.order[cursor_.offset++];
        to_float(source_.held, current_.memory.subspan(row * row_bytes, row_bytes), out.first(n),
                 source_.scale);
        out = out.subspan(n);
    }
}

bool Lane::read_ahead() {
    if (!current_.loaded || current_.failure || next_.loaded) return false;
    const auto [pass, number] = after(current_.pass, current_.number);
    load(next_, pass, number);
    return true;
}

}  // namespace strata::data
