#pragma once
// The seam to other ranks. Every collective takes spans with typed elements: the count is the span's, the
// type the element's, never a number of bytes. All ranks must call the same collectives in the same order.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace strata {

// Memory of several ranks in the address space of each of them.
struct SharedMemory {
    std::vector<std::span<std::byte>> of_rank;  // what each asked for, zeroed; 2 MiB aligned
    std::shared_ptr<void> owner;                // unmaps when the last copy is gone
};

// One rank's letter to another.
struct Message {
    int from = 0;
    std::vector<std::byte> bytes;
};

class Communicator {
  public:
    virtual ~Communicator() = default;
    virtual int rank() const = 0;
    virtual int size() const = 0;
    virtual int ranks_on_node() const = 0;

    // In place, result on all ranks; the same bits on all ranks.
    virtual void sum(std::span<float> values) = 0;
    virtual void sum(std::span<double> values) = 0;
    virtual void sum(std::span<std::uint64_t> values) = 0;
    virtual void max(std::span<double> values) = 0;
    virtual void any(std::span<std::uint32_t> bits) = 0;  // bitwise or

    // `all` holds size() * mine.size() elements, rank r's at [r * mine.size()].
    virtual void gather(std::span<const std::uint64_t> mine, std::span<std::uint64_t> all) = 0;

    virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
    virtual void barrier() = 0;

    // The same as barrier() for waits that may be long: it sleeps where barrier() would spin.
    virtual void long_barrier() = 0;

    // Messages between two ranks, for what not all do at the same time; one thread per communicator may use
    // them. post() copies the bytes and returns at once, whether or not the other listens. poll() returns the
    // next message that has come, those of one sender in the order sent, or nothing; it never waits.
    virtual void post(std::span<const std::byte> bytes, int to) = 0;
    virtual std::optional<Message> poll() = 0;

    // A second, independent communicator over the same ranks, for use by another thread.
    virtual std::unique_ptr<Communicator> duplicate() = 0;
    // One over the ranks that give the same color, in their order.
    virtual std::unique_ptr<Communicator> split(int color) = 0;
    // One over the ranks of this rank's node, in their order.
    virtual std::unique_ptr<Communicator> on_node() = 0;

    // `bytes` of this rank (which may be 0) and those of all others, addressable by each. Nothing, on all
    // ranks, where one of them cannot reach another's memory.
    virtual std::optional<SharedMemory> share(std::size_t bytes) = 0;

    // Ends every rank with this exit status. Does not return.
    [[noreturn]] virtual void abort(int status) = 0;
};

}  // namespace strata
