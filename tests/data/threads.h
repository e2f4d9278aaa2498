#pragma once
// Statistics at several ranks in one process.

#include <algorithm>
#include <barrier>
#include <functional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "comm/communicator.h"

namespace strata::data {

// Ranks as threads of this process; only what statistics need.
struct Shared {
    explicit Shared(int ranks) : barrier(ranks), values(static_cast<std::size_t>(ranks)) {}
    std::barrier<> barrier;
    std::vector<std::span<double>> values;
    std::span<const std::byte> letter;
};

class ThreadCommunicator final : public Communicator {
  public:
    ThreadCommunicator(Shared& shared, int rank, int size) : shared_(shared), rank_(rank), size_(size) {}
    int rank() const override { return rank_; }
    int size() const override { return size_; }
    int ranks_on_node() const override { return size_; }
    void sum(std::span<double> values) override {
        shared_.values[static_cast<std::size_t>(rank_)] = values;
        shared_.barrier.arrive_and_wait();
        std::vector<double> total(values.size());
        for (const auto& part : shared_.values)
            for (std::size_t i = 0; i < total.size(); ++i) total[i] += part[i];
        shared_.barrier.arrive_and_wait();
        std::ranges::copy(total, values.begin());
        shared_.barrier.arrive_and_wait();
    }
    void sum(std::span<float>) override { unused(); }
    void sum(std::span<std::uint64_t>) override { unused(); }
    void max(std::span<double>) override { unused(); }
    void any(std::span<std::uint32_t>) override { unused(); }
    void gather(std::span<const std::uint64_t>, std::span<std::uint64_t>) override { unused(); }
    void broadcast(std::span<std::byte> bytes, int root) override {
        if (rank_ == root) shared_.letter = bytes;
        shared_.barrier.arrive_and_wait();
        if (rank_ != root) std::ranges::copy(shared_.letter, bytes.begin());
        shared_.barrier.arrive_and_wait();
    }
    void barrier() override { unused(); }
    void long_barrier() override { unused(); }
    void post(std::span<const std::byte>, int) override { unused(); }
    std::optional<Message> poll() override { unused(); }
    std::unique_ptr<Communicator> duplicate() override { unused(); }
    std::unique_ptr<Communicator> split(int) override { unused(); }
    std::unique_ptr<Communicator> on_node() override { unused(); }
    std::optional<SharedMemory> share(std::size_t) override { unused(); }
    [[noreturn]] void abort(int) override { unused(); }

  private:
    [[noreturn]] static void unused() { throw std::logic_error("not used by statistics"); }
    Shared& shared_;
    int rank_, size_;
};

inline void on_threads(int ranks, const std::function<void(Communicator&)>& action) {
    Shared shared(ranks);
    std::vector<std::jthread> threads;
    for (int r = 0; r < ranks; ++r)
        threads.emplace_back([&, r] {
            ThreadCommunicator comm(shared, r, ranks);
            action(comm);
        });
}

}  // namespace strata::data
