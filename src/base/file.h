#pragma once
// Files that are either whole or absent: written under a temporary name, synced, renamed.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace strata {

// Writes `path` in one go. A crash or a full disk leaves the old file, or none. RunError names the path and
// the system's reason.
void write_file(const std::filesystem::path& path, std::string_view contents);

// The same for several pieces one after another, without joining them in memory. Large ones that lie in whole
// pages, in memory and in the file, go to the disk without a copy, where the file system can.
void write_file(const std::filesystem::path& path, std::span<const std::span<const std::byte>> pieces);

// RunError if it cannot be read.
std::string read_file(const std::filesystem::path& path);

// Makes a rename or a removal in `folder` durable.
void sync_folder(const std::filesystem::path& folder);

// CRC-32 (that of zlib) of bytes, continued from `start`.
std::uint32_t checksum(std::span<const std::byte> bytes, std::uint32_t start = 0);

}  // namespace strata
