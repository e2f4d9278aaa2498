#pragma once
// CUDA's runtime, as far as this project uses it, on the CPU: the sources of the GPU backend compile against
// it with any C++ compiler, and their kernels run as fibers (fibers.cpp) on memory that only they may touch
// (memory.cpp). What the real runtime answers with an error has the same error here; what it leaves undefined
// ends the program with a message that begins with "cuda_on_cpu:".
//
// The part of the language that exists here: blocks of one dimension of whole warps, warp operations of all
// 32 lanes, shared memory of the launch alone (`extern __shared__`), streams that were made.

#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// On anything but a declaration of the launch's shared memory it is an error.
#define __shared__ __attribute__((weak))
#define __align__(n) __attribute__((aligned(n)))

#define CUDART_VERSION 13000

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevicePointer = 17,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
};
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
namespace cuda_on_cpu {
[[noreturn]] void report_misaligned(std::size_t bytes);
}
// A GPU refuses one at an address that is not a multiple of 16. The compiler is told of no such alignment: it
// would take the test for always true.
struct float4 {
    float x, y, z, w;
    float4(float x_, float y_, float z_, float w_) : x(x_), y(y_), z(z_), w(w_) {}
    float4(const float4& from) : x(from.x), y(from.y), z(from.z), w(from.w) { from.check(); }
    float4& operator=(const float4& from) {
        check();
        x = from.x, y = from.y, z = from.z, w = from.w;
        return *this;
    }

  private:
    void check() const {
        if (reinterpret_cast<std::uintptr_t>(this) % 16 != 0) cuda_on_cpu::report_misaligned(16);
    }
};
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

// Devices.
struct cudaUUID_t {
    char bytes[16];
};
struct cudaDeviceProp {
    char name[256];
    cudaUUID_t uuid;
    std::size_t totalGlobalMem;
    std::size_t sharedMemPerBlockOptin;
    int major, minor, multiProcessorCount, l2CacheSize;
};
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaDeviceSynchronize();

// Streams. Their work waits until something waits for it.
using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
inline constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaEventDefault = 0;
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to);

// Graphs, of kernels, memsets and copies on the device. While a thread captures it makes no memory and waits
// for nothing.
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0, cudaStreamCaptureModeThreadLocal = 1 };
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphUpload(cudaGraphExec_t made, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t made);
cudaError_t cudaGraphLaunch(cudaGraphExec_t made, cudaStream_t stream);

// Memory.
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
cudaError_t cudaMalloc(void** p, std::size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMallocHost(void** p, std::size_t bytes);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream);

// Launches.
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaLaunchAttributeID { cudaLaunchAttributeIgnore = 0 };
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    std::size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

namespace cuda_on_cpu {
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread);
cudaError_t allow_shared(const void* kernel, int bytes);
}  // namespace cuda_on_cpu

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
    return cuda_on_cpu::launch(
        *config, reinterpret_cast<const void*>(kernel),
        [kernel, values = std::tuple<Parameters...>(std::forward<Arguments>(arguments)...)] {
            std::apply(kernel, values);
        });
}
template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value) {
    return cuda_on_cpu::allow_shared(reinterpret_cast<const void*>(kernel), value);
}

// What kernels see.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace cuda_on_cpu {
void barrier(const char* what);
// Each lane's number, and the lowest bits of all, once all lanes of the warp have given theirs.
struct Exchanged {
    std::uint64_t number[32];
    unsigned bits;
    std::uint64_t operator[](unsigned lane) const { return number[lane]; }
};
const Exchanged& exchange(std::uint64_t number, unsigned mask, const char* what);

template <typename T>
std::uint64_t number_of(T value) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    if constexpr (sizeof(T) == 4)
        return std::bit_cast<std::uint32_t>(value);
    else
        return std::bit_cast<std::uint64_t>(value);
}
template <typename T>
T from_number(std::uint64_t number) {
    if constexpr (sizeof(T) == 4)
        return std::bit_cast<T>(static_cast<std::uint32_t>(number));
    else
        return std::bit_cast<T>(number);
}
}  // namespace cuda_on_cpu

inline void __syncthreads() {
    cuda_on_cpu::barrier("__syncthreads");
}
inline void __syncwarp(unsigned mask = 0xffffffffU) {
    cuda_on_cpu::exchange(0, mask, "__syncwarp");
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
    return cuda_on_cpu::from_number<T>(cuda_on_cpu::exchange(
        cuda_on_cpu::number_of(value), mask, "__shfl_sync")[static_cast<unsigned>(lane) & 31]);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
    const unsigned lane = threadIdx.x & 31, from = lane + by;
    return cuda_on_cpu::from_number<T>(cuda_on_cpu::exchange(cuda_on_cpu::number_of(value), mask,
                                                             "__shfl_down_sync")[from < 32 ? from : lane]);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
    const unsigned lane = threadIdx.x & 31, from = lane >= by ? lane - by : lane;
    return cuda_on_cpu::from_number<T>(
        cuda_on_cpu::exchange(cuda_on_cpu::number_of(value), mask, "__shfl_up_sync")[from]);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
    const unsigned from = (threadIdx.x ^ static_cast<unsigned>(bits)) & 31;
    return cuda_on_cpu::from_number<T>(
        cuda_on_cpu::exchange(cuda_on_cpu::number_of(value), mask, "__shfl_xor_sync")[from]);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return cuda_on_cpu::exchange(predicate != 0 ? 1 : 0, mask, "__ballot_sync").bits;
}

// Of global and of shared memory. Only one thread runs at a time.
template <typename T>
T atomicAdd(T* p, T value) {
    return std::atomic_ref(*p).fetch_add(value, std::memory_order_relaxed);
}
template <typename T>
T atomicMax(T* p, T value) {
    std::atomic_ref at(*p);
    const T before = at.load(std::memory_order_relaxed);
    if (before < value) at.store(value, std::memory_order_relaxed);
    return before;
}
template <typename T>
T atomicOr(T* p, T value) {
    return std::atomic_ref(*p).fetch_or(value, std::memory_order_relaxed);
}

inline int __popc(unsigned value) {
    return std::popcount(value);
}
inline int __ffs(int value) {
    return value == 0 ? 0 : std::countr_zero(static_cast<unsigned>(value)) + 1;
}
inline unsigned __float_as_uint(float value) {
    return std::bit_cast<unsigned>(value);
}
inline float __uint_as_float(unsigned bits) {
    return std::bit_cast<float>(bits);
}
