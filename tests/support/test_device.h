#pragma once
// The device that the tests are about. The tests of another device are compiled with another file of this
// name.

#include <memory>

#include "device/cpu/cpu_device.h"

namespace strata::test {

// Whether ranks of a host can share its memory.
inline constexpr bool shares_memory = true;

inline std::unique_ptr<device::Device> make_test_device(
    int threads = 2, const device::CpuOptions& options = {},
    const device::ScreenKernels* screen = device::screen_kernels()) {
    return std::make_unique<device::CpuDevice>(threads, options, screen);
}

}  // namespace strata::test
