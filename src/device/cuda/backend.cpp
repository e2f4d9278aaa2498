// The GPU backend's entry (device/backend.h).

#include "device/backend.h"

#include <cuda_runtime.h>

#include "base/error.h"
#include "device/cuda/cuda_device.h"

namespace strata::device {
namespace {

constexpr int least_major = 8;  // Ampere: bf16 and TF32 products

std::string version_text(int version) {
    return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

std::string hexadecimal(const cudaUUID_t& id) {
    std::string text;
    for (const char byte : id.bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    return text;
}

// Any error of the first call means that there is no GPU to use, and its words say why.
FoundGpus find() {
    FoundGpus found;
    int driver = 0, runtime = 0, count = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    found.libraries = fmt::format("CUDA {}, driver for {}", version_text(runtime), version_text(driver));
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (driver == 0) {
        found.why_none = "no NVIDIA driver";
    } else if (status == cudaErrorInsufficientDriver) {
        found.why_none =
            fmt::format("driver older than runtime: it serves CUDA {}, this program was built with {}",
                        version_text(driver), version_text(runtime));
    } else if (status != cudaSuccess) {
        found.why_none = fmt::format("cudaGetDeviceCount: {}", cudaGetErrorString(status));
    } else if (count == 0) {
        found.why_none = "the driver shows no GPU (CUDA_VISIBLE_DEVICES?)";
    }
    if (!found.why_none.empty()) return found;
    for (int i = 0; i < count; ++i) {
        cudaDeviceProp properties{};
        cuda::check(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties", "the list of GPUs");
        found.gpus.push_back({properties.name, hexadecimal(properties.uuid),
                              static_cast<std::int64_t>(properties.totalGlobalMem)});
        if (properties.major < least_major)
            return {{},
                    found.libraries,
                    fmt::format("GPU {}, {}, is of compute capability {}.{}; {}.0 or later is needed "
                                "(CUDA_VISIBLE_DEVICES can leave it out)",
                                i, properties.name, properties.major, properties.minor, least_major)};
    }
    return found;
}

std::int64_t free_memory() {
    std::size_t unused = 0, all = 0;
    cuda::check(cudaMemGetInfo(&unused, &all), "cudaMemGetInfo", "the plan");
    return static_cast<std::int64_t>(unused);
}

void* stream(const Device& device) {
    return static_cast<cudaStream_t>(dynamic_cast<const CudaDevice&>(device).stream());
}

}  // namespace
}  // namespace strata::device

extern "C" const strata::device::GpuBackend* strata_gpu_backend() {
    using namespace strata::device;
    static const GpuBackend backend = {STRATA_VERSION, find, make_cuda_device, stream, free_memory};
    return &backend;
}
