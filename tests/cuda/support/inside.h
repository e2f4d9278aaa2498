#pragma once
// The codes and candidates that a CudaDevice holds, or the CpuDevice beside it; see cpu_inside.h.

#include <cstdint>
#include <vector>

#include "device/cuda/cuda_device.h"
#include "support/cpu_inside.h"

namespace strata::test {

template <auto candidates, auto codes, auto rows>
struct InsideCuda {
    friend const device::cuda::Pairs& candidates_of(const device::CudaDevice& device) {
        return device.*candidates;
    }
    friend const device::cuda::CodeTable& table_of(const device::CudaDevice& device, device::CodeSet set) {
        return (device.*codes)[static_cast<std::size_t>(set)];
    }
    friend std::int64_t rows_of(const device::CudaDevice& device) { return device.*rows; }
};
const device::cuda::Pairs& candidates_of(const device::CudaDevice& device);
const device::cuda::CodeTable& table_of(const device::CudaDevice& device, device::CodeSet set);
std::int64_t rows_of(const device::CudaDevice& device);
template struct InsideCuda<&device::CudaDevice::candidates_, &device::CudaDevice::codes_,
                           &device::CudaDevice::rows_>;

template <typename T>
std::vector<T> first_of(const device::cuda::DeviceArray<T>& from, std::size_t size,
                        const device::cuda::Stream& stream) {
    std::vector<T> to(size);
    device::cuda::download(from.data(), std::span(to), stream, from.name());
    return to;
}

inline std::vector<Pair> pairs_of(const device::CudaDevice& device, const device::cuda::Pairs& pairs) {
    const std::vector<std::uint32_t> begin =
        first_of(pairs.begin, static_cast<std::size_t>(rows_of(device)) + 1, device.stream());
    const std::vector<std::uint32_t> latent = first_of(pairs.latent, begin.back(), device.stream());
    const std::vector<float> value = first_of(pairs.value, begin.back(), device.stream());
    std::vector<Pair> all;
    for (std::uint32_t b = 0; b + 1 < begin.size(); ++b)
        for (std::uint32_t e = begin[b]; e < begin[b + 1]; ++e) all.push_back({b, latent[e], value[e]});
    return all;
}

inline std::vector<Pair> codes_of(const device::Device& device, device::CodeSet set = device::CodeSet::main) {
    const auto* cuda = dynamic_cast<const device::CudaDevice*>(&device);
    return cuda != nullptr ? pairs_of(*cuda, table_of(*cuda, set).pairs) : cpu::codes_of(device, set);
}

inline std::vector<Pair> candidates_in(const device::Device& device) {
    const auto* cuda = dynamic_cast<const device::CudaDevice*>(&device);
    return cuda != nullptr ? pairs_of(*cuda, candidates_of(*cuda)) : cpu::candidates_in(device);
}

// dL/df of a set's codes.
inline std::vector<float> gradients_in(const device::Device& device, device::CodeSet set) {
    const auto* cuda = dynamic_cast<const device::CudaDevice*>(&device);
    if (cuda == nullptr) return cpu::gradients_in(device, set);
    return first_of(table_of(*cuda, set).gradient, codes_of(device, set).size(), cuda->stream());
}

}  // namespace strata::test
