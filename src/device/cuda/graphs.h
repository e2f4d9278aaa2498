#pragma once
// Work that comes again with the same arguments, as graphs of CUDA's: the host launches one in place of every
// kernel, and the GPU goes from kernel to kernel without it.

#include <concepts>
#include <cstdint>
#include <functional>
#include <list>
#include <vector>

#include "device/cuda/runtime.h"

namespace strata::device::cuda {

class Graphs {
  public:
    using Key = std::vector<std::uint64_t>;
    template <typename... Parts>
    static Key key_of(Parts... parts) {
        return {number_of(parts)...};
    }

    Graphs() = default;
    ~Graphs();
    Graphs(const Graphs&) = delete;
    Graphs& operator=(const Graphs&) = delete;

    // Queues what `work` queues on the stream, kernels, memsets and copies on the device alone: the first
    // time as it is, so that kernels are loaded and products have their algorithms (for which cuBLASLt cannot
    // be asked within a capture), the second time into a graph, later from it.
    // `key`: all that the work depends on beside what device memory holds. Where arrays lie, as long as none
    // is exchanged for another, is known here: when one has moved all begins anew. A driver that makes no
    // graph has the work itself each time.
    void run(Key key, const Stream& stream, const std::function<void()>& work);

  private:
    static std::uint64_t number_of(const void* p) { return reinterpret_cast<std::uintptr_t>(p); }
    template <std::integral T>
    static std::uint64_t number_of(T value) {
        return static_cast<std::uint64_t>(value);
    }
    struct Graph {
        Key key;
        cudaGraphExec_t made = nullptr;
    };
    cudaGraphExec_t make(const Stream& stream, const std::function<void()>& work);
    void forget(std::size_t all_but);

    std::list<Graph> graphs_;  // last used first
    std::uint64_t moves_ = 0;
    bool refused_ = false;
};

}  // namespace strata::device::cuda
