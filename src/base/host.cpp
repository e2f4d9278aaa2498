#include "base/host.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

#include "base/error.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

// A file of one number; nothing where it is missing or says `max`.
std::optional<std::int64_t> limit_in(const fs::path& file) {
    std::ifstream in(file);
    std::int64_t bytes = 0;
    return in >> bytes ? std::optional(bytes) : std::nullopt;
}

std::int64_t memory_of_machine(const fs::path& root) {
    std::ifstream in(root / "proc/meminfo");
    std::string key, unit;
    for (std::int64_t kib = 0; in >> key >> kib; std::getline(in, unit))
        if (key == "MemTotal:") return kib * 1024;
    fail("{}: says nothing of MemTotal", (root / "proc/meminfo").string());
}

}  // namespace

std::int64_t host_memory(const fs::path& root) {
    std::int64_t least = memory_of_machine(root);
    std::ifstream groups(root / "proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // hierarchy:controllers:/path
        const std::size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const bool unified = controllers.empty();
        if (!unified && ("," + controllers + ",").find(",memory,") == std::string::npos) continue;
        const fs::path mount = root / (unified ? "sys/fs/cgroup" : "sys/fs/cgroup/memory");
        // A limit holds for all groups below it; inside a container the path may lead nowhere.
        for (fs::path path = fs::path(line.substr(second + 1)).relative_path();; path = path.parent_path()) {
            const auto limit = limit_in(mount / path / (unified ? "memory.max" : "memory.limit_in_bytes"));
            least = std::min(least, limit.value_or(least));
            if (path.empty()) break;
        }
    }
    return least;
}

}  // namespace strata
