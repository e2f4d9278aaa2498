#include "comm/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fmt/format.h>

#include <array>

#include "base/memory.h"

namespace strata {
namespace {

class Descriptor {
  public:
    explicit Descriptor(int value) : value_(value) {}
    ~Descriptor() {
        if (value_ >= 0) ::close(value_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const { return value_; }

  private:
    int value_;
};

struct Mappings {
    std::vector<std::pair<void*, std::size_t>> all;

    Mappings() = default;
    ~Mappings() {
        for (const auto& [p, bytes] : all) ::munmap(p, bytes);
    }
    Mappings(const Mappings&) = delete;
    Mappings& operator=(const Mappings&) = delete;

    // Null where it fails. Reserves two huge pages more, so that the mapping can begin at a huge page.
    std::byte* add(int descriptor, std::size_t bytes) {
        void* p =
            ::mmap(nullptr, bytes + huge_page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return nullptr;
        all.emplace_back(p, bytes + huge_page);
        const std::size_t past = reinterpret_cast<std::uintptr_t>(p) % huge_page;
        std::byte* aligned = static_cast<std::byte*>(p) + (past == 0 ? 0 : huge_page - past);
        if (::mmap(aligned, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, descriptor, 0) ==
            MAP_FAILED)
            return nullptr;
        ::madvise(aligned, bytes, MADV_HUGEPAGE);
        return aligned;
    }
};

bool everywhere(Communicator& comm, bool good) {
    std::array<std::uint32_t, 1> bad = {good ? 0U : 1U};
    comm.any(bad);
    return bad[0] == 0;
}

}  // namespace

std::optional<SharedMemory> share_memory(Communicator& comm, std::size_t bytes) {
    const Descriptor mine(bytes > 0 ? ::memfd_create("strata", MFD_CLOEXEC) : -1);
    const bool made =
        bytes == 0 || (mine.get() >= 0 && ::ftruncate(mine.get(), static_cast<off_t>(bytes)) == 0);
    const std::array<std::uint64_t, 3> told = {static_cast<std::uint64_t>(::getpid()),
                                               static_cast<std::uint64_t>(std::max(mine.get(), 0)), bytes};
    std::vector<std::uint64_t> all(told.size() * static_cast<std::size_t>(comm.size()));
    comm.gather(told, all);
    if (!everywhere(comm, made)) return std::nullopt;

    auto mappings = std::make_shared<Mappings>();
    SharedMemory shared;
    bool reached = true;
    for (std::size_t r = 0; r < static_cast<std::size_t>(comm.size()); ++r) {
        const std::size_t size = all[3 * r + 2];
        std::byte* p = nullptr;
        if (size > 0) {
            const Descriptor theirs(::open(fmt::format("/proc/{}/fd/{}", all[3 * r], all[3 * r + 1]).c_str(),
                                           O_RDWR | O_CLOEXEC));
            p = theirs.get() >= 0 ? mappings->add(theirs.get(), size) : nullptr;
            reached = reached && p != nullptr;
        }
        shared.of_rank.emplace_back(p, size);
    }
    shared.owner = std::move(mappings);
    // Also keeps every descriptor open until all have mapped it.
    if (!everywhere(comm, reached)) return std::nullopt;
    return shared;
}

}  // namespace strata
