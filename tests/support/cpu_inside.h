#pragma once
// The codes and candidates that a CpuDevice holds: no verb hands them out, and which pairs were selected is
// the thing to be tested. An explicit instantiation may name private members, so the class needs no friend.

#include <compare>
#include <cstdint>
#include <vector>

#include "device/cpu/cpu_device.h"

namespace strata::test {

template <auto candidates, auto codes>
struct Inside {
    friend const device::PairsByRow& candidates_of(const device::CpuDevice& device) {
        return device.*candidates;
    }
    friend const device::CodeTable& table_of(const device::CpuDevice& device, device::CodeSet set) {
        return (device.*codes)[static_cast<std::size_t>(set)];
    }
};
const device::PairsByRow& candidates_of(const device::CpuDevice& device);
const device::CodeTable& table_of(const device::CpuDevice& device, device::CodeSet set);
template struct Inside<&device::CpuDevice::candidates_, &device::CpuDevice::codes_>;

struct Pair {
    std::uint32_t row, latent;
    float value;
    auto operator<=>(const Pair&) const = default;
};

namespace cpu {

inline std::vector<Pair> pairs_of(const device::PairsByRow& pairs) {
    std::vector<Pair> all;
    for (std::uint32_t b = 0; b + 1 < pairs.begin.size(); ++b)
        for (std::uint32_t e = pairs.begin[b]; e < pairs.begin[b + 1]; ++e)
            all.push_back({b, pairs.latent[e], pairs.value[e]});
    return all;
}

inline std::vector<Pair> codes_of(const device::Device& device, device::CodeSet set = device::CodeSet::main) {
    return pairs_of(table_of(dynamic_cast<const device::CpuDevice&>(device), set).pairs);
}

inline std::vector<Pair> candidates_in(const device::Device& device) {
    return pairs_of(candidates_of(dynamic_cast<const device::CpuDevice&>(device)));
}

// dL/df of a set's codes.
inline std::vector<float> gradients_in(const device::Device& device, device::CodeSet set) {
    const device::CodeTable& table = table_of(dynamic_cast<const device::CpuDevice&>(device), set);
    return {table.gradient.begin(), table.gradient.begin() + table.pairs.size()};
}

}  // namespace cpu
}  // namespace strata::test
