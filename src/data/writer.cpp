#include "data/writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "data/convert.h"
#include "data/hdf5.h"

namespace strata::data {
namespace {

constexpr std::int64_t rows_per_write = 4096;

// 256 rows, fewer where they exceed 1 MiB: enough for fast reading in any order, little wasted on a partial
// read.
std::int64_t chunk_rows_for(std::int64_t row_bytes) {
    std::int64_t rows = 256;
    while (rows > 16 && rows * row_bytes > (1 << 20)) rows /= 2;
    return rows;
}

struct Growing {
    NewDataset made;
    Handle handle, type;
    hsize_t rows = 0;
    double sum_of_squares = 0;
};

void write_text(hid_t object, const char* name, const std::string& text) {
    const Handle type(H5Tcopy(H5T_C_S1));
    H5Tset_size(type.get(), H5T_VARIABLE);  // which h5py shows as str; fixed lengths it shows as bytes
    H5Tset_cset(type.get(), H5T_CSET_UTF8);
    const Handle space(H5Screate(H5S_SCALAR));
    const Handle attribute(H5Acreate2(object, name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT));
    const char* const start = text.c_str();
    if (!attribute || H5Awrite(attribute.get(), type.get(), static_cast<const void*>(&start)) < 0)
        fail("attribute {} cannot be written: {}", name, hdf5_reason());
}

void write_number(hid_t object, const char* name, hid_t stored, hid_t given, const void* value) {
    const Handle space(H5Screate(H5S_SCALAR));
    const Handle attribute(H5Acreate2(object, name, stored, space.get(), H5P_DEFAULT, H5P_DEFAULT));
    if (!attribute || H5Awrite(attribute.get(), given, value) < 0)
        fail("attribute {} cannot be written: {}", name, hdf5_reason());
}

Handle making_groups() {
    Handle links(H5Pcreate(H5P_LINK_CREATE));
    H5Pset_create_intermediate_group(links.get(), 1);
    return links;
}

void sync_file(const std::filesystem::path& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const bool synced = descriptor >= 0 && ::fsync(descriptor) == 0;
    const int reason = errno;
    if (descriptor >= 0) ::close(descriptor);
    if (!synced) fail("{}: cannot be synced: {}", path.string(), std::strerror(reason));
}

}  // namespace

struct Writer::State {
    std::filesystem::path path, temporary;
    Handle file;
    std::vector<Growing> datasets;
    Array<std::byte> raw;

    [[noreturn]] void broken(const std::string& what) const {
        fail("{}: {} cannot be written: {}", path.string(), what, hdf5_reason());
    }
};

Writer::Writer(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
    state_->path = path;
    state_->temporary = path.string() + ".tmp";
    if (!path.has_filename()) refuse("'{}': is no name of a file", path.string());
    if (std::filesystem::exists(path))
        refuse("{}: exists already and is not overwritten; remove it or choose another name", path.string());
    const Hdf5Lock lock;
    state_->file = Handle(H5Fcreate(state_->temporary.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
    if (!state_->file) refuse("{}: cannot be made: {}", path.string(), hdf5_reason());
}

Writer::~Writer() {
    if (!state_->file) return;
    state_->datasets.clear();
    state_->file = Handle();
    std::error_code ignored;
    std::filesystem::remove(state_->temporary, ignored);
}

std::size_t Writer::add(const NewDataset& dataset) {
    STRATA_ASSERT(dataset.n > 0);
    const Hdf5Lock lock;
    const std::int64_t row_bytes = dataset.n * static_cast<std::int64_t>(size_of(dataset.type));
    const std::array<hsize_t, 2> none = {0, static_cast<hsize_t>(dataset.n)};
    const std::array<hsize_t, 2> most = {H5S_UNLIMITED, static_cast<hsize_t>(dataset.n)};
    const std::array<hsize_t, 2> chunk = {static_cast<hsize_t>(chunk_rows_for(row_bytes)),
                                          static_cast<hsize_t>(dataset.n)};
    const Handle space(H5Screate_simple(2, none.data(), most.data()));
    const Handle made(H5Pcreate(H5P_DATASET_CREATE));
    H5Pset_chunk(made.get(), 2, chunk.data());
    H5Pset_fletcher32(made.get());
    // Holds the chunk that is being filled, so that it is summed and written once.
    const Handle access(H5Pcreate(H5P_DATASET_ACCESS));
    H5Pset_chunk_cache(access.get(), 3, 2 * chunk[0] * static_cast<std::size_t>(row_bytes), 1.0);

    Growing growing{dataset, {}, hdf5_type(dataset.type)};
    growing.handle = Handle(H5Dcreate2(state_->file.get(), dataset.name.c_str(), growing.type.get(),
                                       space.get(), making_groups().get(), made.get(), access.get()));
    if (!growing.handle) state_->broken(dataset.name);
    const hid_t id = growing.handle.get();
    if (!dataset.model.empty()) write_text(id, "model", dataset.model);
    if (!dataset.site.empty()) write_text(id, "site", dataset.site);
    if (dataset.layer >= 0) write_number(id, "layer", H5T_STD_I64LE, H5T_NATIVE_INT64, &dataset.layer);
    write_text(id, "dtype", name_of(dataset.type));  // for people: tools show both 16-bit types alike
    state_->datasets.push_back(std::move(growing));
    return state_->datasets.size() - 1;
}

void Writer::append(std::size_t dataset, std::span<const float> rows) {
    const Hdf5Lock lock;
    Growing& to = state_->datasets[dataset];
    const auto n = static_cast<std::size_t>(to.made.n);
    const std::size_t row_bytes = n * size_of(to.made.type);
    STRATA_ASSERT(rows.size() % n == 0);
    while (!rows.empty()) {
        const std::size_t count = std::min<std::size_t>(rows.size() / n, rows_per_write);
        if (state_->raw.size() < count * row_bytes) state_->raw.reset(count * row_bytes);
        const auto raw = std::span<std::byte>(state_->raw).first(count * row_bytes);
        from_float(to.made.type, rows.first(count * n), raw);
        for (std::size_t i = 0; i < count; ++i)
            to.sum_of_squares +=
                static_cast<double>(sum_of_squares(to.made.type, raw.subspan(i * row_bytes, row_bytes)));
        const std::array<hsize_t, 2> start = {to.rows, 0}, shape = {count, n}, extent = {to.rows + count, n};
        if (H5Dset_extent(to.handle.get(), extent.data()) < 0) state_->broken(to.made.name);
        const Handle in_file(H5Dget_space(to.handle.get())),
            in_memory(H5Screate_simple(2, shape.data(), nullptr));
        if (H5Sselect_hyperslab(in_file.get(), H5S_SELECT_SET, start.data(), nullptr, shape.data(), nullptr) <
                0 ||
            H5Dwrite(to.handle.get(), to.type.get(), in_memory.get(), in_file.get(), H5P_DEFAULT,
                     raw.data()) < 0)
            state_->broken(fmt::format("{}: rows {} to {}", to.made.name, to.rows, to.rows + count - 1));
        to.rows += count;
        rows = rows.subspan(count * n);
    }
}

void Writer::put(const std::string& name, const std::vector<std::int64_t>& shape,
                 std::span<const float> values) {
    const Hdf5Lock lock;
    const std::vector<hsize_t> dimensions(shape.begin(), shape.end());
    const Handle space(H5Screate_simple(static_cast<int>(dimensions.size()), dimensions.data(), nullptr));
    const Handle handle(H5Dcreate2(state_->file.get(), name.c_str(), H5T_IEEE_F32LE, space.get(),
                                   making_groups().get(), H5P_DEFAULT, H5P_DEFAULT));
    STRATA_ASSERT(space && H5Sget_simple_extent_npoints(space.get()) == static_cast<hssize_t>(values.size()));
    if (!handle || H5Dwrite(handle.get(), H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0)
        state_->broken(name);
}

void Writer::put_text(const std::string& name, const std::string& text) {
    const Hdf5Lock lock;
    write_text(state_->file.get(), name.c_str(), text);
}

void Writer::finish() {
    const Hdf5Lock lock;
    for (Growing& to : state_->datasets) {
        const double mean = to.rows == 0 ? 0 : to.sum_of_squares / static_cast<double>(to.rows);
        write_number(to.handle.get(), "mean_sq_norm", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &mean);
        if (H5Dclose(to.handle.release()) < 0)
            state_->broken(to.made.name);  // writes what the cache still holds
    }
    state_->datasets.clear();
    if (H5Fflush(state_->file.get(), H5F_SCOPE_GLOBAL) < 0) state_->broken("the file");
    if (H5Fclose(state_->file.get()) < 0) state_->broken("the file");
    state_->file.release();
    sync_file(state_->temporary);
    std::error_code error;
    std::filesystem::rename(state_->temporary, state_->path, error);
    if (error)
        fail("{}: the finished file {} cannot be renamed: {}", state_->path.string(),
             state_->temporary.string(), error.message());
    sync_folder(state_->path.parent_path());
}

}  // namespace strata::data
