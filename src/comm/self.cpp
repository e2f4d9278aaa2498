#include "comm/self.h"

#include <algorithm>
#include <cstdlib>

#include "comm/shared_memory.h"

namespace strata {
namespace {

class SelfCommunicator final : public Communicator {
  public:
    int rank() const override { return 0; }
    int size() const override { return 1; }
    int ranks_on_node() const override { return 1; }
    void sum(std::span<float>) override {}
    void sum(std::span<double>) override {}
    void sum(std::span<std::uint64_t>) override {}
    void max(std::span<double>) override {}
    void any(std::span<std::uint32_t>) override {}
    void gather(std::span<const std::uint64_t> mine, std::span<std::uint64_t> all) override {
        std::ranges::copy(mine, all.begin());
    }
    void broadcast(std::span<std::byte>, int) override {}
    void barrier() override {}
    std::unique_ptr<Communicator> duplicate() override { return make_self_communicator(); }
    std::unique_ptr<Communicator> split(int) override { return make_self_communicator(); }
    std::unique_ptr<Communicator> on_node() override { return make_self_communicator(); }
    std::optional<SharedMemory> share(std::size_t bytes) override { return share_memory(*this, bytes); }
    [[noreturn]] void abort(int status) override { std::_Exit(status); }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() {
    return std::make_unique<SelfCommunicator>();
}

}  // namespace strata
