#pragma once
// What the parts of CUDA on the CPU share.

#include <cstddef>
#include <mutex>

#include "cuda_runtime.h"

namespace cuda_on_cpu {

// One thing at a time: kernels, copies, allocations.
std::recursive_mutex& lock();

// Keeps the error for cudaGetLastError and returns it.
cudaError_t fail_with(cudaError_t error);

// Whether copies from pinned memory come as early as they may, in an odd order, or as late.
bool copies_come_early();

// One copy more or less is under way from or to pinned memory, which must stay until it is through.
void count_pinned_copy(const void* p, int change);

// CUDA opens the thread's current GPU at a call that has to do with one.
void open_device();

// Whether this thread captures a stream, which it spoils by what it does then.
bool refused_in_capture();

// Lets all streams run to their ends.
void finish_all();

// The kernel that runs, with block and thread, or "a copy".
const char* running();

// Whether some 4 bytes of it were never written; the first of them.
bool holds_never_written(const void* p, std::size_t bytes, std::size_t& at);

// Runs all threads of a grid.
void run_grid(const void* kernel, dim3 grid, unsigned threads, std::size_t shared,
              const std::function<void()>& thread);

}  // namespace cuda_on_cpu
