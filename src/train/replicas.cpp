#include "train/replicas.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/log.h"

namespace strata::train {
namespace {

std::unique_ptr<Communicator> host_group(Communicator& all) {
    std::unique_ptr<Communicator> host = all.on_node();
    const auto size = static_cast<std::uint64_t>(host->size());
    std::vector<std::uint64_t> sizes(static_cast<std::size_t>(all.size()));
    all.gather({&size, 1}, sizes);
    std::array<std::uint32_t, 1> alone = {
        std::ranges::any_of(sizes, [&](std::uint64_t s) { return s != size; }) || !host->share(64) ? 1U : 0U};
    all.any(alone);
    if (alone[0] == 0) return host;
    if (all.size() > 1 && all.rank() == 0)
        log::info(
            "the ranks of a host cannot share memory, or hosts have different numbers of them: each holds "
            "all");
    return all.split(all.rank());
}

template <typename T>
device::Memory<T> part_of_memory(const SharedMemory& shared, std::size_t rank) {
    const std::span<std::byte> bytes = shared.of_rank[rank];
    return {{reinterpret_cast<T*>(bytes.data()), [owner = shared.owner](T*) {}}, bytes.size() / sizeof(T)};
}

SharedMemory share(Communicator& group, std::size_t bytes) {
    std::optional<SharedMemory> shared = group.share(bytes);
    if (!shared) fail("out of memory: {} bytes to be shared by the ranks of a host", bytes);
    return *std::move(shared);
}

// One for all of a group that shares memory.
template <typename T>
device::Memory<T> shared(Communicator& group, std::size_t size) {
    return part_of_memory<T>(share(group, group.rank() == 0 ? size * sizeof(T) : 0), 0);
}

}  // namespace

Replicas::Replicas(Communicator& all_, int group_size)
    : all(all_),
      group(group_size == 0 ? host_group(all_) : all_.split(all_.rank() / group_size)),
      across(all_.split(group->rank())) {}

Replicas::Replicas(Communicator& all_, const device::Device& device, int group_size)
    : Replicas(all_, device.host_memory() ? group_size : all_.size()) {
    in_place = device.host_memory();
}

Slice Replicas::updated_by(int rank, std::int64_t width) const {
    return part_of(Slice{0, width}, rank, group->size());
}

Slice Replicas::saved(std::int64_t width) const {
    return part_of(updated(width), across->rank(), across->size());
}

device::Memory<float> Replicas::shared_matrix(device::Device& device, std::size_t size) const {
    if (!share_memory()) return device::make_memory<float>(device, size);
    return shared<float>(*group, size);
}

device::Memory<std::byte> Replicas::shared_bytes(device::Device& device, std::size_t size) const {
    if (!share_memory()) return device::make_memory<std::byte>(device, size);
    return shared<std::byte>(*group, size);
}

device::Memory<float> Replicas::readable_matrix(device::Device& device, std::size_t size,
                                                std::vector<const float*>& of_ranks) const {
    if (!share_memory()) {
        device::Memory<float> own = device::make_memory<float>(device, size);
        of_ranks = {own.data()};
        return own;
    }
    const SharedMemory shared = share(*group, size * sizeof(float));
    of_ranks.clear();
    for (const std::span<std::byte> bytes : shared.of_rank)
        of_ranks.push_back(reinterpret_cast<const float*>(bytes.data()));
    return part_of_memory<float>(shared, static_cast<std::size_t>(group->rank()));
}

}  // namespace strata::train
