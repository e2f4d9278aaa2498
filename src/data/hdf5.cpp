#include "data/hdf5.h"

#include <sys/stat.h>

#include <array>
#include <bit>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace strata::data {
namespace {

// Elements are read as they lie in the file and converted as native integers.
static_assert(std::endian::native == std::endian::little);

std::recursive_mutex& hdf5_mutex() {
    static std::recursive_mutex mutex;
    return mutex;
}

herr_t keep_first(unsigned, const H5E_error2_t* error, void* found) {
    auto& text = *static_cast<std::string*>(found);
    if (text.empty() && error->desc != nullptr) text = error->desc;
    return 0;
}

bool is_little_endian(hid_t datatype) {
    return H5Tget_order(datatype) != H5T_ORDER_BE;
}

}  // namespace

Hdf5Lock::Hdf5Lock() : lock_(hdf5_mutex()) {
    thread_local const bool quiet = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
    static_cast<void>(quiet);
}

Handle::~Handle() {
    if (id_ < 0) return;
    const Hdf5Lock lock;
    // Every call clears the record of failures; what failed before the clean-up must still be known after it.
    const hid_t failures = H5Eget_current_stack();
    H5Idec_ref(id_);
    H5Eset_current_stack(failures);
}

std::string hdf5_reason() {
    const Hdf5Lock lock;
    std::string text;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &text);
    H5Eclear2(H5E_DEFAULT);
    const auto has = [&](const char* part) { return text.find(part) != std::string::npos; };
    unsigned long long found = 0, expected = 0;
    if (const auto at = text.find("truncated file: eof = ");
        at != std::string::npos &&
        std::sscanf(text.c_str() + at,
                    "truncated file: eof = %llu, sblock->base_addr = %*u, stored_eof = %llu", &found,
                    &expected) == 2)
        return fmt::format(
            "the file is truncated: it should have {} bytes and has {}; copy or write it again", expected,
            found);
    if (has("file signature not found")) return "it is not an HDF5 file";
    if (has("Fletcher32"))
        return "the data do not match their fletcher32 checksum: the file is damaged; restore it or leave it "
               "out "
               "(`strata data check` lists everything that is damaged)";
    if (has("unable to lock file, errno = 11"))
        return "another program has it open for writing; wait for it, or set HDF5_USE_FILE_LOCKING=FALSE if "
               "that is not so";
    if (has("required filter") && has("not registered"))
        return text +
               ": install that HDF5 filter (HDF5_PLUGIN_PATH names the folder of plugins), or write the file "
               "without compression";
    constexpr std::string_view from_system = "error message = '";  // among descriptors and flags
    if (const auto at = text.find(from_system); at != std::string::npos) {
        const auto begin = at + from_system.size();
        return text.substr(begin, text.find('\'', begin) - begin);
    }
    if (text.empty()) return "HDF5 gives no reason";
    text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(text[0])));
    return text;
}

Handle hdf5_type(Type type) {
    const Hdf5Lock lock;
    Handle made(H5Tcopy(H5T_IEEE_F32LE));
    if (type == Type::float32) return made;
    const bool half = type == Type::float16;
    const std::size_t mantissa = half ? 10 : 7;
    // The fields must lie inside the size at all times, so the size shrinks last.
    if (H5Tset_fields(made.get(), 15, mantissa, 15 - mantissa, 0, mantissa) < 0 ||
        H5Tset_size(made.get(), 2) < 0 || H5Tset_ebias(made.get(), half ? 15 : 127) < 0)
        fail("HDF5 cannot make the type {}: {}", name_of(type), hdf5_reason());
    return made;
}

std::optional<Type> type_of(hid_t datatype) {
    const Hdf5Lock lock;
    for (const Type type : {Type::float16, Type::bfloat16, Type::float32})
        if (H5Tequal(datatype, hdf5_type(type).get()) > 0) return type;
    return std::nullopt;
}

std::string describe_type(hid_t datatype) {
    const Hdf5Lock lock;
    const auto bits = 8 * H5Tget_size(datatype);
    switch (H5Tget_class(datatype)) {
        case H5T_FLOAT:
            return fmt::format("{}{}-bit float", is_little_endian(datatype) ? "" : "big-endian ", bits);
        case H5T_INTEGER:
            return fmt::format("{}-bit integer", bits);
        case H5T_STRING:
            return "text";
        case H5T_COMPOUND:
            return "compound";
        default:
            return "of another kind than numbers";
    }
}

Handle open_file(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) refuse("{}: cannot be read: {}", path, std::strerror(errno));
    if (S_ISDIR(status.st_mode)) refuse("{}: is a folder; name the files in it, as in {}/*.h5", path, path);
    // Opening a pipe would wait for its writer.
    if (!S_ISREG(status.st_mode)) refuse("{}: is a pipe, socket or device; expected an HDF5 file", path);
    const Hdf5Lock lock;
    const Handle access(H5Pcreate(H5P_FILE_ACCESS));
#if H5_VERSION_GE(1, 10, 7)
    // File systems without locks (some network ones) can still be read.
    H5Pset_file_locking(access.get(), true, true);
#endif
    Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()));
    if (!file) {
        if (status.st_size == 0) refuse("{}: cannot be opened: it is empty (0 bytes)", path);
        refuse("{}: cannot be opened: {}", path, hdf5_reason());
    }
    return file;
}

Handle open_dataset(hid_t file, const std::string& name) {
    const Hdf5Lock lock;
    const Handle access(H5Pcreate(H5P_DATASET_ACCESS));
    H5Pset_chunk_cache(access.get(), 0, 0, H5D_CHUNK_CACHE_W0_DEFAULT);
    return Handle(H5Dopen2(file, name.c_str(), access.get()));
}

bool read_rows(hid_t dataset, hid_t type, std::int64_t first, std::int64_t rows, std::int64_t n, void* out) {
    const Hdf5Lock lock;
    const std::array<hsize_t, 2> start = {static_cast<hsize_t>(first), 0};
    const std::array<hsize_t, 2> count = {static_cast<hsize_t>(rows), static_cast<hsize_t>(n)};
    const Handle in_file(H5Dget_space(dataset));
    const Handle in_memory(H5Screate_simple(2, count.data(), nullptr));
    return in_file && in_memory &&
           H5Sselect_hyperslab(in_file.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr) >=
               0 &&
           H5Dread(dataset, type, in_memory.get(), in_file.get(), H5P_DEFAULT, out) >= 0;
}

std::optional<std::string> text_attribute(hid_t object, const char* name) {
    const Hdf5Lock lock;
    if (H5Aexists(object, name) <= 0) return std::nullopt;
    const Handle attribute(H5Aopen(object, name, H5P_DEFAULT));
    const Handle type(attribute ? H5Aget_type(attribute.get()) : H5I_INVALID_HID);
    const Handle space(attribute ? H5Aget_space(attribute.get()) : H5I_INVALID_HID);
    if (!type || !space || H5Tget_class(type.get()) != H5T_STRING ||
        H5Sget_simple_extent_npoints(space.get()) != 1)
        return std::nullopt;
    if (H5Tis_variable_str(type.get()) > 0) {
        char* text = nullptr;
        if (H5Aread(attribute.get(), type.get(), static_cast<void*>(&text)) < 0 || text == nullptr)
            return std::nullopt;
        std::string result(text);
        H5free_memory(text);
        return result;
    }
    std::string result(H5Tget_size(type.get()), '\0');
    if (H5Aread(attribute.get(), type.get(), result.data()) < 0) return std::nullopt;
    return std::string(result.c_str());
}

std::optional<double> number_attribute(hid_t object, const char* name) {
    const Hdf5Lock lock;
    if (H5Aexists(object, name) <= 0) return std::nullopt;
    const Handle attribute(H5Aopen(object, name, H5P_DEFAULT));
    const Handle type(attribute ? H5Aget_type(attribute.get()) : H5I_INVALID_HID);
    const Handle space(attribute ? H5Aget_space(attribute.get()) : H5I_INVALID_HID);
    if (!type || !space || H5Sget_simple_extent_npoints(space.get()) != 1) return std::nullopt;
    const H5T_class_t kind = H5Tget_class(type.get());
    double value = 0;
    if ((kind != H5T_INTEGER && kind != H5T_FLOAT) || H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &value) < 0)
        return std::nullopt;
    return value;
}

}  // namespace strata::data
