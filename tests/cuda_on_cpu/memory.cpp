// Device memory: pages that are closed unless a kernel or a copy runs, between pages that never open. What is
// freed stays closed for ever, so that no address is used twice.

#include <sys/mman.h>

#include <algorithm>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "cuda_on_cpu.h"
#include "state.h"

namespace cuda_on_cpu {
namespace {

constexpr std::size_t page = 4096, unit = 256, arena_bytes = std::size_t{1} << 38;
constexpr std::size_t device_bytes = std::size_t{1} << 33;  // of all devices together

struct Allocation {
    std::byte* pages;
    std::size_t mapped;  // pages that open
    std::size_t bytes;
    std::byte* end() const { return pages + mapped; }
};

struct Pinned {
    std::size_t bytes;
    int copies = 0;  // under way
};

struct Memory {
    std::byte* arena = nullptr;
    std::size_t used = page;
    std::map<const std::byte*, Allocation> allocations, freed;  // by address
    std::map<const std::byte*, Pinned> pinned;
    int open = 0;
};

Memory& memory() {
    static Memory m;
    return m;
}

bool in_arena(const void* p) {
    const auto* at = static_cast<const std::byte*>(p);
    return memory().arena != nullptr && at >= memory().arena && at < memory().arena + arena_bytes;
}

// The last allocation that does not begin behind p, with its address.
const std::pair<const std::byte* const, Allocation>* at_or_before(
    const std::map<const std::byte*, Allocation>& all, const void* p) {
    const auto next = all.upper_bound(static_cast<const std::byte*>(p));
    return next == all.begin() ? nullptr : &*std::prev(next);
}

bool inside(const std::byte* start, std::size_t size, const void* p, std::size_t bytes) {
    const auto* at = static_cast<const std::byte*>(p);
    return at >= start && at + bytes <= start + size;
}

// Who touches what it must not, as far as is known.
void on_fault(int number, siginfo_t* info, void*) {
    std::signal(number, SIG_DFL);
    if (!in_arena(info->si_addr)) return;  // the fault comes again
    const auto* at = static_cast<const std::byte*>(info->si_addr);
    const auto* live = at_or_before(memory().allocations, at);
    if (live != nullptr && inside(live->first, live->second.bytes, at, 1))
        die("the host touches device memory: byte %td of %zu, outside of kernels and copies",
            at - live->first, live->second.bytes);
    const auto* freed = at_or_before(memory().freed, at);
    if (freed != nullptr && inside(freed->first, freed->second.bytes, at, 1))
        die("%s: byte %td of %zu of device memory that was freed", running(), at - freed->first,
            freed->second.bytes);
    die("%s: out of bounds, byte %td of an allocation of %zu", running(),
        live == nullptr ? 0 : at - live->first, live == nullptr ? 0 : live->second.bytes);
}

std::byte* arena() {
    Memory& m = memory();
    if (m.arena != nullptr) return m.arena;
    void* p = mmap(nullptr, arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) die("no address space of %zu bytes for device memory", arena_bytes);
    m.arena = static_cast<std::byte*>(p);
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
    return m.arena;
}

void protect(const Allocation& a, int how) {
    if (mprotect(a.pages, a.mapped, how) != 0) die("mprotect of %zu bytes failed", a.mapped);
}

// From the beginning of a page or of a unit to any byte.
void fill_never_written(std::byte* from, const std::byte* end) {
    const std::size_t words = static_cast<std::size_t>(end - from) / 4;
    std::fill_n(reinterpret_cast<std::uint32_t*>(from), words, never_written);
    std::memcpy(from + 4 * words, &never_written, static_cast<std::size_t>(end - from) % 4);
}

// Of at most `unit` bytes.
bool untouched(const std::byte* from, const std::byte* end) {
    static const std::vector<std::uint32_t> pattern(unit / 4 + 1, never_written);
    const auto* start = reinterpret_cast<const std::byte*>(pattern.data());
    return std::memcmp(from, start + reinterpret_cast<std::uintptr_t>(from) % 4,
                       static_cast<std::size_t>(end - from)) == 0;
}

void check_guards_of(const std::byte* data, const Allocation& a, const char* after) {
    if (!untouched(std::max(a.pages, const_cast<std::byte*>(data) - unit), data))
        die("%s wrote before an allocation of %zu bytes", after, a.bytes);
    if (!untouched(data + a.bytes, a.end()))
        die("%s wrote beyond an allocation of %zu bytes", after, a.bytes);
}

}  // namespace

void die(const char* format, ...) {
    std::va_list arguments;
    va_start(arguments, format);
    std::fputs("cuda_on_cpu: ", stderr);
    std::vfprintf(stderr, format, arguments);
    std::fputc('\n', stderr);
    va_end(arguments);
    std::abort();
}

std::recursive_mutex& lock() {
    static std::recursive_mutex mutex;
    return mutex;
}

Access::Access() {
    lock().lock();
    Memory& m = memory();
    if (m.open++ > 0) return;
    for (const auto& [data, a] : m.allocations) protect(a, PROT_READ | PROT_WRITE);
}

Access::~Access() {
    Memory& m = memory();
    if (--m.open == 0)
        for (const auto& [data, a] : m.allocations) protect(a, PROT_NONE);
    lock().unlock();
}

bool in_device_memory(const void* p, std::size_t bytes) {
    const std::lock_guard guard(lock());
    const auto* live = at_or_before(memory().allocations, p);
    return live != nullptr && inside(live->first, live->second.bytes, p, bytes);
}

namespace {
Pinned* pinned_at(const void* p, std::size_t bytes) {
    auto& all = memory().pinned;
    const auto next = all.upper_bound(static_cast<const std::byte*>(p));
    if (next == all.begin() || !inside(std::prev(next)->first, std::prev(next)->second.bytes, p, bytes))
        return nullptr;
    return &std::prev(next)->second;
}
}  // namespace

bool in_pinned_memory(const void* p, std::size_t bytes) {
    const std::lock_guard guard(lock());
    return pinned_at(p, bytes) != nullptr;
}

void count_pinned_copy(const void* p, int change) {
    pinned_at(p, 1)->copies += change;
}

void check_guards(const char* after) {
    for (const auto& [data, a] : memory().allocations) check_guards_of(data, a, after);
}

bool holds_never_written(const void* p, std::size_t bytes, std::size_t& at) {
    const auto* from = static_cast<const std::byte*>(p);
    for (std::size_t i = 0; i + 4 <= bytes; i += 4) {
        std::uint32_t word = 0;
        std::memcpy(&word, from + i, 4);
        if (word != never_written) continue;
        at = i;
        return true;
    }
    return false;
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

// The end of an allocation, as far as its size is a multiple of 256, is the end of its pages.
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
    const std::lock_guard guard(lock());
    open_device();
    if (refused_in_capture()) return fail_with(cudaErrorStreamCaptureUnsupported);
    if (p == nullptr) return fail_with(cudaErrorInvalidValue);
    *p = nullptr;
    if (bytes == 0) return cudaSuccess;
    Memory& m = memory();
    const std::size_t rounded = (bytes + unit - 1) / unit * unit;
    Allocation a{arena() + m.used, (rounded + page - 1) / page * page, bytes};
    std::size_t in_use = a.mapped;
    for (const auto& [data, other] : m.allocations) in_use += other.mapped;
    if (in_use > device_bytes || m.used + a.mapped + page > arena_bytes)
        return fail_with(cudaErrorMemoryAllocation);
    m.used += a.mapped + page;
    protect(a, PROT_READ | PROT_WRITE);
    fill_never_written(a.pages, a.end());
    if (m.open == 0) protect(a, PROT_NONE);
    std::byte* data = a.end() - rounded;
    m.allocations[data] = a;
    *p = data;
    return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
    if (p == nullptr) return cudaSuccess;
    if (refused_in_capture()) return fail_with(cudaErrorStreamCaptureUnsupported);
    finish_all();
    const Access access;
    open_device();
    const auto found = memory().allocations.find(static_cast<std::byte*>(p));
    if (found == memory().allocations.end()) return fail_with(cudaErrorInvalidValue);
    check_guards_of(found->first, found->second, "something");
    protect(found->second, PROT_NONE);
    madvise(found->second.pages, found->second.mapped, MADV_DONTNEED);
    memory().freed.insert(*found);
    memory().allocations.erase(found);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
    const std::lock_guard guard(lock());
    open_device();
    if (refused_in_capture()) return fail_with(cudaErrorStreamCaptureUnsupported);
    *p = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
    if (*p == nullptr) return fail_with(cudaErrorMemoryAllocation);
    auto* data = static_cast<std::byte*>(*p);
    fill_never_written(data, data + bytes);
    memory().pinned[data] = {bytes};
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void* p) {
    if (p == nullptr) return cudaSuccess;
    const std::lock_guard guard(lock());
    open_device();
    const auto found = memory().pinned.find(static_cast<std::byte*>(p));
    if (found == memory().pinned.end()) return fail_with(cudaErrorInvalidValue);
    if (found->second.copies > 0) die("pinned memory is freed with a copy of it under way");
    memory().pinned.erase(found);
    std::free(p);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    const std::lock_guard guard(lock());
    open_device();
    std::size_t used = 0;
    for (const auto& [data, a] : memory().allocations) used += a.mapped;
    *total = device_bytes;
    *free = device_bytes - used;
    return cudaSuccess;
}
