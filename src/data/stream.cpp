#include "data/stream.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/memory.h"
#include "data/lane.h"

namespace strata::data {
namespace {

std::int64_t first_lane(std::int64_t lanes, int rank, int ranks) {
    return rank * lanes / ranks;
}

// A batch and the cursors after it.
struct Filled {
    BatchRoom room;
    std::vector<LaneCursor> cursors;
};

}  // namespace

std::int64_t training_rows(const Dataset& dataset, const DataConfig& config) {
    if (config.eval_rows >= dataset.rows)
        refuse(
            "{}: data.eval_rows keeps back {} rows, but there are only {}; give more files or make eval_rows "
            "smaller",
            dataset.name, config.eval_rows, dataset.rows);
    const std::int64_t rows = dataset.rows - config.eval_rows;
    if (rows < config.lanes)
        refuse(
            "{}: {} rows to train on are fewer than the {} lanes (data.lanes); give more files or set fewer "
            "lanes",
            dataset.name, rows, config.lanes);
    return rows;
}

LeftOut left_out(const Stream& stream, Communicator& comm) {
    std::array<std::uint64_t, 2> counts = {};
    for (const LaneCursor& cursor : stream.cursors()) {
        counts[0] += cursor.skipped;
        counts[1] += cursor.corrupt;
    }
    comm.sum(counts);
    return {counts[0], counts[1]};
}

std::int64_t stream_bytes(const Dataset& dataset, const DataConfig& config, std::int64_t batch_size,
                          int ranks) {
    const std::int64_t rows = training_rows(dataset, config), lanes = (config.lanes + ranks - 1) / ranks;
    const std::int64_t block = block_rows_for(config, rows);
    const std::int64_t run = run_rows_for(dataset, rows, config.lanes);
    const auto held = [&](const Dataset& one) {
        const auto row = static_cast<std::int64_t>(size_of(type_of(one))) * one.n;
        const std::int64_t batches = 2 * ((batch_size + ranks - 1) / ranks + 1);
        return row * (lanes * block + std::min(run, block)) + batches * one.n * 4;
    };
    // Of a row 12 bytes tell its place, of a run as many its turn.
    return held(dataset) + (dataset.target ? held(*dataset.target) : 0) + 12 * lanes * block +
           12 * (rows / run + 1);
}

std::int64_t local_rows(std::int64_t batch_size, std::int64_t lanes, int rank, int ranks) {
    return first_lane(lanes, rank + 1, ranks) * batch_size / lanes -
           first_lane(lanes, rank, ranks) * batch_size / lanes;
}

// The consumer holds batches[1 - filling]; the thread fills batches[filling], and while that waits to be
// taken it reads the lanes' next blocks into the slots that it left free. Once they are full it sleeps: only
// the next batch makes room.
struct Stream::State {
    LaneSource source;
    std::int64_t batch_size;
    std::int64_t lane_begin, lane_end;
    Array<std::byte> x_slots, target_slots;  // a block's per lane
    std::vector<Lane> lanes;
    std::vector<Filled> batches;  // two

    std::mutex mutex;
    std::condition_variable changed;
    int filling = 0;
    bool filled = false;  // batches[filling] is ready to be taken
    bool ending = false;
    std::exception_ptr failure;
    std::jthread thread;

    State(const Dataset& dataset, const DataConfig& config, const InputStatistics& statistics,
          std::int64_t batch_size_, std::uint64_t seed, int rank, int ranks,
          const std::vector<LaneCursor>& cursors, device::Device* device);
    ~State() { stop(); }

    void start(const std::vector<LaneCursor>& cursors);
    void stop();
    std::size_t block_bytes(const HeldRows& rows) const {
        return static_cast<std::size_t>(source.block_rows) * rows.row_bytes();
    }
    Slots slots_of(std::size_t lane);  // counted among those of the rank
    std::int64_t first_row(std::int64_t lane) const { return lane * batch_size / source.lanes; }
    std::int64_t rows() const { return first_row(lane_end) - first_row(lane_begin); }  // of a batch
    void save_cursors(Filled& batch);
    void fill(Filled& batch);
    bool read_ahead();
    void run();
};

Stream::State::State(const Dataset& dataset, const DataConfig& config, const InputStatistics& statistics,
                     std::int64_t batch_size_, std::uint64_t seed, int rank, int ranks,
                     const std::vector<LaneCursor>& cursors, device::Device* device)
    : source(dataset, config, statistics, seed),
      batch_size(batch_size_),
      lane_begin(first_lane(config.lanes, rank, ranks)),
      lane_end(first_lane(config.lanes, rank + 1, ranks)) {
    const auto own_lanes = static_cast<std::size_t>(lane_end - lane_begin);
    x_slots.reset(own_lanes * block_bytes(source.x));
    if (source.target) target_slots.reset(own_lanes * block_bytes(*source.target));
    for (int i = 0; i < 2; ++i)
        batches.push_back({BatchRoom(device, rows(), dataset.n, source.x.type,
                                     source.target ? std::optional(source.target->type) : std::nullopt,
                                     static_cast<float>(statistics.scale)),
                           {}});
    start(cursors);
}

Slots Stream::State::slots_of(std::size_t lane) {
    const auto part = [&](Array<std::byte>& all, const HeldRows& rows) {
        return std::span<std::byte>(all).subspan(lane * block_bytes(rows), block_bytes(rows));
    };
    return {part(x_slots, source.x),
            source.target ? part(target_slots, *source.target) : std::span<std::byte>()};
}

void Stream::State::start(const std::vector<LaneCursor>& cursors) {
    if (!cursors.empty() && static_cast<std::int64_t>(cursors.size()) != source.lanes)
        fail("{}: the saved position has {} lanes, the configuration {} (data.lanes); they must agree",
             source.x.dataset.name, cursors.size(), source.lanes);
    lanes.clear();
    for (std::int64_t lane = lane_begin; lane < lane_end; ++lane) {
        lanes.emplace_back(source, lane,
                           cursors.empty() ? LaneCursor{} : cursors[static_cast<std::size_t>(lane)],
                           slots_of(static_cast<std::size_t>(lane - lane_begin)));
    }
    for (Filled& batch : batches) {
        batch.cursors.assign(static_cast<std::size_t>(source.lanes), {});
        save_cursors(batch);
    }
    filled = ending = source.abandoned = false;
    failure = nullptr;
    thread = std::jthread([this] { run(); });
}

void Stream::State::stop() {
    source.abandoned = true;
    {
        const std::lock_guard lock(mutex);
        ending = true;
    }
    changed.notify_all();
    if (thread.joinable()) thread.join();
}

void Stream::State::save_cursors(Filled& batch) {
    for (std::size_t i = 0; i < lanes.size(); ++i)
        batch.cursors[static_cast<std::size_t>(lane_begin) + i] = lanes[i].cursor();
}

void Stream::State::fill(Filled& batch) {
    batch.room.open();
    for (std::size_t i = 0; i < lanes.size(); ++i) {
        const std::int64_t lane = lane_begin + static_cast<std::int64_t>(i);
        lanes[i].serve(batch.room, first_row(lane) - first_row(lane_begin),
                       first_row(lane + 1) - first_row(lane));
    }
    batch.room.send(rows());
    save_cursors(batch);
}

bool Stream::State::read_ahead() {
    return std::ranges::any_of(lanes, [](Lane& lane) { return lane.read_ahead(); });
}

void Stream::State::run() {
    try {
        while (true) {
            fill(batches[static_cast<std::size_t>(filling)]);
            std::unique_lock lock(mutex);
            filled = true;
            changed.notify_all();
            while (filled && !ending) {
                lock.unlock();
                const bool busy = read_ahead();
                lock.lock();
                if (!busy) changed.wait(lock, [this] { return !filled || ending; });
            }
            if (ending) return;
        }
    } catch (const Abandoned&) {
    } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
        changed.notify_all();
    }
}

Stream::Stream(const Dataset& dataset, const DataConfig& config, const InputStatistics& statistics,
               std::int64_t batch_size, std::uint64_t seed, int rank, int ranks,
               const std::vector<LaneCursor>& cursors, device::Device* device)
    : state_(std::make_unique<State>(dataset, config, statistics, batch_size, seed, rank, ranks, cursors,
                                     device)) {}

Stream::~Stream() = default;

void Stream::rewind(const std::vector<LaneCursor>& cursors) {
    state_->stop();
    state_->start(cursors);
}

Batch Stream::next() {
    State& s = *state_;
    std::unique_lock lock(s.mutex);
    s.changed.wait(lock, [&] { return s.filled || s.failure; });
    if (!s.filled) std::rethrow_exception(s.failure);
    const Filled& taken = s.batches[static_cast<std::size_t>(s.filling)];
    s.filling = 1 - s.filling;
    s.filled = false;
    s.changed.notify_all();
    static std::atomic<std::uint64_t> batches = 0;
    return taken.room.batch(s.first_row(s.lane_begin), ++batches);
}

std::vector<LaneCursor> Stream::cursors() const {
    const std::lock_guard lock(state_->mutex);
    return state_->batches[static_cast<std::size_t>(1 - state_->filling)].cursors;
}

}  // namespace strata::data
