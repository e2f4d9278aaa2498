#include "base/file.h"

#include <fcntl.h>
#include <libdeflate.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/error.h"

namespace strata {
namespace {

// No disk's blocks are larger; a multiple of those of all others.
constexpr std::size_t disk_block = 4096;
// Less is with the page cache sooner than with the disk.
constexpr std::size_t least_direct = std::size_t{1} << 20;

struct Descriptor {
    int value;
    explicit Descriptor(int v) : value(v) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (value >= 0) ::close(value);
    }
};

// The temporary file is removed unless the rename took place.
struct Temporary {
    std::filesystem::path path;
    bool kept = false;
    explicit Temporary(std::filesystem::path p) : path(std::move(p)) {}
    Temporary(const Temporary&) = delete;
    Temporary& operator=(const Temporary&) = delete;
    ~Temporary() {
        if (!kept) ::unlink(path.c_str());
    }
};

void write_all(int descriptor, std::span<const std::byte> bytes, const std::filesystem::path& path) {
    while (!bytes.empty()) {
        // Whole blocks go past the page cache: a copy into fresh pages would cost cores up to a second for
        // 200 MB.
        const std::size_t direct = bytes.size() >= least_direct ? bytes.size() / disk_block * disk_block : 0;
        const bool past = direct > 0 && ::fcntl(descriptor, F_SETFL, O_DIRECT) == 0;
        ssize_t n = past ? ::write(descriptor, bytes.data(), direct) : -1;
        if (past) ::fcntl(descriptor, F_SETFL, 0);
        // Not every file system can, nor from or to any place.
        if (!past || (n < 0 && errno == EINVAL)) n = ::write(descriptor, bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail("{}: cannot write: {}", path.string(), std::strerror(errno));
        bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
}

}  // namespace

void write_file(const std::filesystem::path& path, std::span<const std::span<const std::byte>> pieces) {
    Temporary temporary(path.string() + ".tmp");
    {
        const Descriptor file(::open(temporary.path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
        if (file.value < 0) fail("{}: cannot create: {}", path.string(), std::strerror(errno));
        for (const auto piece : pieces) write_all(file.value, piece, path);
        if (::fsync(file.value) != 0) fail("{}: cannot sync: {}", path.string(), std::strerror(errno));
    }
    if (::rename(temporary.path.c_str(), path.c_str()) != 0)
        fail("{}: cannot rename the finished file: {}", path.string(), std::strerror(errno));
    temporary.kept = true;
    sync_folder(path.parent_path());
}

void write_file(const std::filesystem::path& path, std::string_view contents) {
    const std::array pieces = {std::as_bytes(std::span(contents))};
    write_file(path, pieces);
}

std::string read_file(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) fail("{}: cannot read: {}", path.string(), std::strerror(errno));
    std::ostringstream text;
    text << in.rdbuf();
    return std::move(text).str();
}

void sync_folder(const std::filesystem::path& folder) {
    const std::string name = folder.empty() ? "." : folder.string();
    const Descriptor handle(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (handle.value < 0 || ::fsync(handle.value) != 0)
        fail("{}: cannot sync the folder: {}", name, std::strerror(errno));
}

std::uint32_t checksum(std::span<const std::byte> bytes, std::uint32_t start) {
    return bytes.empty() ? start : libdeflate_crc32(start, bytes.data(), bytes.size());
}

}  // namespace strata
