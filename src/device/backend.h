#pragma once
// What the libraries that know CUDA and NCCL offer to this program, which opens them at run time (gpu.cpp),
// so that it runs where neither is. No type of CUDA's stands here.

#include <memory>
#include <string>
#include <vector>

#include "comm/device_sums.h"
#include "device/device.h"

namespace strata::device {

// One that this process may use.
struct Gpu {
    std::string name;
    std::string id;           // of the hardware: no two alike
    std::int64_t memory = 0;  // bytes
};

struct FoundGpus {
    std::vector<Gpu> gpus;
    std::string libraries;  // versions of the runtime and the driver
    std::string why_none;   // where there are none
};

struct GpuBackend {
    const char* version;  // of strata, which must be this program's
    FoundGpus (*find)();
    // Throws RunError, with CUDA's words, if the GPU cannot be used.
    std::unique_ptr<Device> (*make)(int ordinal, const GpuOptions& options);
    void* (*stream)(const Device& device);  // the cudaStream_t of its work
    std::int64_t (*free_memory)();          // of the calling thread's GPU
};

struct NcclBackend {
    const char* version;
    std::string (*library)();  // "NCCL 2.28.9"
    // Collective. `stream`: of the device, which is the calling thread's. Sums that take longer than `limit`
    // seconds are an error; 0: none.
    std::unique_ptr<DeviceSums> (*make)(Communicator& comm, void* stream, double limit);
};

// The names under which the libraries have them: functions without arguments.
using GpuBackendEntry = const GpuBackend*();
using NcclBackendEntry = const NcclBackend*();
inline constexpr const char* gpu_entry = "strata_gpu_backend";
inline constexpr const char* nccl_entry = "strata_nccl_backend";

}  // namespace strata::device
