#pragma once
// The device that the tests are about. The tests of another device are compiled with another file of this
// name.

#include <memory>

#include "device/cpu/cpu_device.h"

namespace strata::test {

inline std::unique_ptr<device::Device> make_test_device(int threads = 2) {
    return std::make_unique<device::CpuDevice>(threads);
}

}  // namespace strata::test
