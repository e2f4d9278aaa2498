#include <algorithm>
#include <vector>

#include "comm/device_sums.h"
#include "device/device.h"

namespace strata {
namespace {

class StagedSums final : public DeviceSums {
  public:
    StagedSums(Communicator& comm, device::Device& device) : comm_(comm), device_(device) {}

    void add(std::span<const Part> parts) override {
        in_pieces(parts, [&](std::span<float> values, int owner) {
            const std::span<float> copy = std::span(copy_).first(values.size());
            device_.download(values.data(), std::as_writable_bytes(copy));
            comm_.sum(copy);
            if (owner == everyone || owner == comm_.rank())
                device_.upload(std::as_bytes(copy), values.data());
        });
    }
    void spread(std::span<const Part> parts) override {
        in_pieces(parts, [&](std::span<float> values, int owner) {
            const auto copy = std::as_writable_bytes(std::span(copy_).first(values.size()));
            if (owner == comm_.rank()) device_.download(values.data(), copy);
            comm_.broadcast(copy, owner);
            if (owner != comm_.rank()) device_.upload(copy, values.data());
        });
    }
    void add_counts(std::span<std::uint64_t> counts) override {
        std::vector<std::uint64_t> copy(counts.size());
        device_.download(counts.data(), std::as_writable_bytes(std::span(copy)));
        comm_.sum(copy);
        device_.upload(std::as_bytes(std::span(copy)), counts.data());
    }
    void finish() override {}

  private:
    // visit(values, owner) of at most `piece` elements at a time.
    template <typename Visit>
    void in_pieces(std::span<const Part> parts, const Visit& visit) {
        for (const Part& part : parts)
            for (std::size_t at = 0; at < part.values.size(); at += piece)
                visit(part.values.subspan(at, std::min(piece, part.values.size() - at)), part.owner);
    }

    // A multiple of the pieces of MPI's sums (docs/design.md, "Memory"), so that it changes no bit.
    static constexpr std::size_t piece = std::size_t{1} << 22;
    Communicator& comm_;
    device::Device& device_;
    std::vector<float> copy_ = std::vector<float>(piece);
};

}  // namespace

std::unique_ptr<DeviceSums> make_staged_sums(Communicator& comm, device::Device& device) {
    return std::make_unique<StagedSums>(comm, device);
}

}  // namespace strata
