#pragma once
// The device that the tests are about. The tests of another device are compiled with another file of this
// name.

#include <memory>

#include "device/cpu/cpu_device.h"

namespace strata::test {

// Whether ranks of a host can share its memory.
inline constexpr bool shares_memory = true;

// Numbers of threads that must give the bits of one, and how many rows or latents problems have that are
// large for their own sake.
inline constexpr int other_threads[] = {2, 3, 5};
inline constexpr std::size_t some_rows = 197, many_rows = 4500, many_latents = 3000;

inline std::unique_ptr<device::Device> make_test_device(
    int threads = 2, const device::CpuOptions& options = {},
    const device::ScreenKernels* screen = device::screen_kernels()) {
    return std::make_unique<device::CpuDevice>(threads, options, screen);
}

}  // namespace strata::test
