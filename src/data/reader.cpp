#include <algorithm>
#include <list>

#include "base/error.h"
#include "base/memory.h"
#include "data/convert.h"
#include "data/dataset.h"
#include "data/hdf5.h"

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
    void read(const FilePart& part, std::int64_t first, std::int64_t rows, void* out);
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

void Reader::State::read(const FilePart& part, std::int64_t first, std::int64_t rows, void* out) {
    const OpenPart& from = opened(part);
    const Handle& type = types[static_cast<std::size_t>(part.type)];
    if (!read_rows(from.dataset.get(), type.get(), first - part.first, rows, dataset.n, out))
        fail("{}: {}: rows {} to {} cannot be read: {}", part.path, dataset.name, first - part.first,
             first - part.first + rows - 1, hdf5_reason());
}

Reader::Reader(const Dataset& dataset) : state_(std::make_unique<State>(dataset)) {}

Reader::~Reader() = default;

void Reader::read(std::int64_t first, std::span<float> out) {
    const auto n = static_cast<std::size_t>(state_->dataset.n);
    STRATA_ASSERT(out.size() % n == 0);
    while (!out.empty()) {
        const FilePart& part = part_of(state_->dataset, first);
        const std::int64_t rows = std::min(
            {static_cast<std::int64_t>(out.size() / n), part.first + part.rows - first, rows_per_read});
        const auto piece = out.first(static_cast<std::size_t>(rows) * n);
        if (part.type == Type::float32) {
            state_->read(part, first, rows, piece.data());
        } else {
            const std::size_t bytes = piece.size() * size_of(part.type);
            if (state_->scratch.size() < bytes) state_->scratch.reset(bytes);
            const auto raw = std::span<std::byte>(state_->scratch).first(bytes);
            state_->read(part, first, rows, raw.data());
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
    state_->read(part, first, rows, out.data());
    return part;
}

}  // namespace strata::data
