#pragma once
// What tests and other stand-ins ask of CUDA on the CPU beyond CUDA itself.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>

#include "cuda_runtime.h"

namespace cuda_on_cpu {

// The order in which blocks and their threads run; 0: ascending. In an odd one copies of pinned memory come
// before the work of other streams, as far as they need not wait for it, else when something waits for them.
// Another order must not change any result. At first what CUDA_ON_CPU_ORDER says.
void set_order(std::uint64_t seed);

// The GPUs on which CUDA has taken memory for this process, since this was last asked: those that were
// current in a thread that called it, whatever the call was about.
std::set<int> opened_devices();

// How many GPUs there are: at first as many as CUDA_ON_CPU_DEVICES says, or 8.
void set_device_count(int count);

// Whether cuBLASLt has an algorithm for a product; at first it has one for each.
void set_algorithms(bool found);

// Every 4 bytes of memory that nobody has written: as a float, and as the upper half of a double, a NaN,
// which sums and products hand on, so that a copy to the host finds what was made from it.
inline constexpr std::uint32_t never_written = 0xFFFA5A5A;

// Whether streams that were captured become graphs, and find memory on the GPU; at first they do.
void set_graphs(bool made, bool uploaded = true);

// Launches of kernels and graphs so far.
std::uint64_t launches();

// Ends the program.
[[noreturn]] void die(const char* format, ...) __attribute__((format(printf, 1, 2)));

// While one exists device memory can be touched.
struct Access {
    Access();
    ~Access();
    Access(const Access&) = delete;
    Access& operator=(const Access&) = delete;
};

// Whether all of it lies in one live allocation of device memory, or of pinned host memory.
bool in_device_memory(const void* p, std::size_t bytes);
bool in_pinned_memory(const void* p, std::size_t bytes);
// Dies if something was written beside an allocation.
void check_guards(const char* after);

// Puts work behind what the stream has.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
// The same of work that waits for something: false as long as it does.
cudaError_t enqueue_until(cudaStream_t stream, std::function<bool()> work);

// The name of a function of this program.
const char* name_of(const void* function);

}  // namespace cuda_on_cpu
