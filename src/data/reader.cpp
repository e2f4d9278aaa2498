#include <algorithm>
#include <cstring>
#include <list>

#include "base/error.h"
#include "base/memory.h"
#include "data/convert.h"
#include "data/corrupt.h"
#include "data/dataset.h"
#include "data/hdf5.h"
#include "data/shared_rows.h"

namespace strata::data {
namespace {

constexpr std::size_t most_open_files = 64;
constexpr std::int64_t rows_per_read = 4096;  // of read(); bounds its scratch

struct OpenPart {
    const FilePart* part = nullptr;
    Handle file, dataset;
};

}  // namespace

struct Reader::State {
    Dataset dataset;
    std::list<OpenPart> open;  // last used first
    std::array<Handle, 3> types = {hdf5_type(Type::float16), hdf5_type(Type::bfloat16),
                                   hdf5_type(Type::float32)};
    Array<std::byte> scratch;

    explicit State(Dataset d) : dataset(std::move(d)) {}

    const OpenPart& opened(const FilePart& part);
    // Rows [first, first + rows) of the dataset, all in `part`.
    void read(const FilePart& part, std::int64_t first, std::int64_t rows, std::span<std::byte> out);
    // The same from the file. False: some are corrupt, and NaN.
    bool read_file(const FilePart& part, std::int64_t first, std::int64_t rows, std::byte* out);
};

const OpenPart& Reader::State::opened(const FilePart& part) {
    const auto found = std::ranges::find(open, &part, &OpenPart::part);
    if (found != open.end()) {
        open.splice(open.begin(), open, found);
        return open.front();
    }
    OpenPart made{&part, {}, {}};
    try {
        made.file = open_file(part.path);
    } catch (const UsageError& error) {
        throw RunError(error.what());  // it could be opened when the run began
    }
    made.dataset = open_dataset(made.file.get(), dataset.name);
    if (!made.dataset) fail("{}: {}: cannot be opened any more: {}", part.path, dataset.name, hdf5_reason());
    if (open.size() == most_open_files) open.pop_back();
    open.push_front(std::move(made));
    return open.front();
}

void Reader::State::read(const FilePart& part, std::int64_t first, std::int64_t rows,
                         std::span<std::byte> out) {
    const auto from_file = [&] { return read_file(part, first, rows, out.data()); };
    // Every reader finds corrupt rows, and tells of them, by itself.
    if (dataset.shared)
        dataset.shared->fetch({dataset.number, first, rows}, out, from_file);
    else
        from_file();
}

bool Reader::State::read_file(const FilePart& part, std::int64_t first, std::int64_t rows, std::byte* out) {
    const OpenPart& from = opened(part);
    const Handle& type = types[static_cast<std::size_t>(part.type)];
    const std::int64_t in_file = first - part.first;
    if (read_rows(from.dataset.get(), type.get(), in_file, rows, dataset.n, out)) return true;
    const std::string reason = hdf5_reason();
    if (!dataset.corrupt)
        fail("{}: {}: rows {} to {} cannot be read: {}; data.skip_corrupt leaves out what cannot be used",
             part.path, dataset.name, in_file, in_file + rows - 1, reason);
    // Chunk by chunk, so that a damaged one takes no others with it.
    const std::int64_t chunk = std::max<std::int64_t>(1, part.chunk_rows);
    const auto row_bytes = static_cast<std::size_t>(dataset.n) * size_of(part.type);
    if (in_file / chunk == (in_file + rows - 1) / chunk) {
        const std::string which = part.chunk_rows > 0 ? "they" : fmt::format("row {}", in_file);
        dataset.corrupt->report(dataset, first, fmt::format("{} cannot be read: {}", which, reason));
        std::memset(out, 0xff, static_cast<std::size_t>(rows) * row_bytes);  // NaN in every type
        return false;
    }
    while (rows > 0) {
        const std::int64_t piece = std::min(rows, chunk - (first - part.first) % chunk);
        read_file(part, first, piece, out);
        first += piece;
        rows -= piece;
        out += static_cast<std::size_t>(piece) * row_bytes;
    }
    return false;
}

Reader::Reader(const Dataset& dataset) : state_(std::make_unique<State>(dataset)) {}

Reader::~Reader() = default;

void Reader::read(std::int64_t first, std::span<float> out) {
    const auto n = static_cast<std::size_t>(state_->dataset.n);
    STRATA_ASSERT(out.size() % n == 0);
    while (!out.empty()) {
        const FilePart& part = part_of(state_->dataset, first);
        const std::int64_t most =
            state_->dataset.shared
                ? std::min(rows_per_read, state_->dataset.shared->most_rows(n * size_of(part.type)))
                : rows_per_read;
        const std::int64_t rows =
            std::min({static_cast<std::int64_t>(out.size() / n), part.first + part.rows - first, most});
        const auto piece = out.first(static_cast<std::size_t>(rows) * n);
        if (part.type == Type::float32) {
            state_->read(part, first, rows, std::as_writable_bytes(piece));
        } else {
            const std::size_t bytes = piece.size() * size_of(part.type);
            if (state_->scratch.size() < bytes) state_->scratch.reset(bytes);
            const auto raw = std::span<std::byte>(state_->scratch).first(bytes);
            state_->read(part, first, rows, raw);
            to_float(part.type, raw, piece);
        }
        first += rows;
        out = out.subspan(piece.size());
    }
}

const FilePart& Reader::read_raw(std::int64_t first, std::int64_t rows, std::span<std::byte> out) {
    const FilePart& part = part_of(state_->dataset, first);
    STRATA_ASSERT(first + rows <= part.first + part.rows);
    STRATA_ASSERT(out.size() == static_cast<std::size_t>(rows * state_->dataset.n) * size_of(part.type));
    state_->read(part, first, rows, out);
    return part;
}

}  // namespace strata::data
