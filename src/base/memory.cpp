#include "base/memory.h"

#include <malloc.h>
#include <unistd.h>

#include <cstdint>

namespace strata {

void* map_zeroed(std::size_t bytes) {
    const std::size_t more = bytes + huge_page;
    void* p = mmap(nullptr, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    auto* const begin = static_cast<char*>(p);
    const std::size_t past = reinterpret_cast<std::uintptr_t>(p) % huge_page;
    const std::size_t before = past == 0 ? 0 : huge_page - past;
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t end = before + (bytes + page - 1) / page * page;
    if (before > 0) munmap(begin, before);
    if (end < more) munmap(begin + end, more - end);
    madvise(begin + before, bytes, MADV_HUGEPAGE);
    return begin + before;
}

void keep_freed_memory() {
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

}  // namespace strata
