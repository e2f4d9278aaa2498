// Devices, streams and copies. Work waits in its stream until something waits for it, so that a result that
// is read too early isn't there.

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "streams.h"

namespace cuda_on_cpu {
namespace {

constexpr std::size_t largest_shared = 227 * 1024, usual_shared = 48 * 1024;

thread_local int device_of_thread = 0;
thread_local cudaError_t last_error = cudaSuccess;

bool usable(cudaEvent_t event) {
    open_device();
    return runtime().events.contains(event);
}

// Runs the next work, which may not be done yet.
void run_next(cudaStream_t stream) {
    if (!stream->work.front()()) return;
    stream->work.pop_front();
    ++stream->done;
}

// Device memory stays open from the first piece of work to the last.
void run_to(cudaStream_t stream, std::uint64_t position) {
    if (stream->done >= position) return;
    const Access access;
    while (stream->done < position) run_next(stream);
}

// While a stream does what it can without waiting for another.
bool ahead = false;

void run_ahead(cudaStream_t stream) {
    const Access access;
    ahead = true;
    for (std::uint64_t before = ~std::uint64_t{0}; stream->done < stream->given && stream->done != before;) {
        before = stream->done;
        run_next(stream);
    }
    ahead = false;
}

void copy(void* to, const void* from, std::size_t bytes) {
    const Access access;
    std::memcpy(to, from, bytes);
}

// To the host, where nothing may arrive that was never written.
void copy_out(void* to, const void* from, std::size_t bytes) {
    const Access access;
    std::size_t at = 0;
    if (holds_never_written(from, bytes, at))
        die("a copy to the host finds memory never written, or made from such: byte %zu of %zu", at, bytes);
    std::memcpy(to, from, bytes);
}

}  // namespace

Runtime& runtime() {
    static Runtime r;
    return r;
}

bool usable(cudaStream_t stream) {
    open_device();
    if (stream == nullptr) die("work for the default stream, which waits for all others: make a stream");
    return runtime().streams.contains(stream) && stream->device == device_of_thread;
}

int current_device() {
    return device_of_thread;
}

void open_device() {
    runtime().opened.insert(device_of_thread);
}

std::set<int> opened_devices() {
    const std::lock_guard guard(lock());
    return std::exchange(runtime().opened, {});
}

cudaError_t fail_with(cudaError_t error) {
    return last_error = error;
}

void finish_all() {
    const std::lock_guard guard(lock());
    for (const cudaStream_t stream : runtime().streams) run_to(stream, stream->given);
}

std::uint64_t launches() {
    return runtime().launches;
}

void set_device_count(int count) {
    runtime().devices = count;
}

const char* name_of(const void* function) {
    static std::string name;
    Dl_info info;
    if (dladdr(function, &info) == 0 || info.dli_sname == nullptr) return "a kernel";
    int status = 0;
    char* plain = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
    name = status == 0 ? plain : info.dli_sname;
    std::free(plain);
    return name.c_str();
}

cudaError_t enqueue_until(cudaStream_t stream, std::function<bool()> work) {
    const std::lock_guard guard(lock());
    if (!usable(stream)) return fail_with(cudaErrorInvalidResourceHandle);
    if (stream->captured != nullptr) {
        if (stream->spoilt) return fail_with(cudaErrorStreamCaptureInvalidated);
        stream->captured->work.push_back(std::move(work));
        return cudaSuccess;
    }
    stream->work.push_back(std::move(work));
    ++stream->given;
    return cudaSuccess;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
    return enqueue_until(stream, [work = std::move(work)] {
        work();
        return true;
    });
}

cudaError_t allow_shared(const void* kernel, int bytes) {
    const std::lock_guard guard(lock());
    if (bytes < 0 || static_cast<std::size_t>(bytes) > largest_shared)
        return fail_with(cudaErrorInvalidValue);
    runtime().allowed_shared[kernel] = bytes;
    return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread) {
    const std::lock_guard guard(lock());
    const dim3 grid = config.gridDim, block = config.blockDim;
    if (grid.x == 0 || grid.x > 0x7fffffffU || grid.y == 0 || grid.y > 65535 || grid.z == 0 ||
        grid.z > 65535 || block.x == 0 || block.x > 1024 || block.y == 0 || block.z == 0)
        return fail_with(cudaErrorInvalidConfiguration);
    if (block.x % 32 != 0 || block.y != 1 || block.z != 1)
        die("%s: blocks here have one dimension of whole warps, not %u x %u x %u", name_of(kernel), block.x,
            block.y, block.z);
    const auto allowed = runtime().allowed_shared.find(kernel);
    const std::size_t most = allowed == runtime().allowed_shared.end()
                                 ? usual_shared
                                 : std::max(usual_shared, static_cast<std::size_t>(allowed->second));
    if (config.dynamicSmemBytes > most) return fail_with(cudaErrorInvalidValue);
    if (usable(config.stream) && config.stream->captured == nullptr) ++runtime().launches;
    return enqueue(config.stream, [=, thread = std::move(thread), shared = config.dynamicSmemBytes] {
        run_grid(kernel, grid, block.x, shared, thread);
    });
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "cudaSuccess";
        case cudaErrorInvalidValue:
            return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation:
            return "cudaErrorMemoryAllocation";
        case cudaErrorInvalidConfiguration:
            return "cudaErrorInvalidConfiguration";
        case cudaErrorInvalidDevicePointer:
            return "cudaErrorInvalidDevicePointer";
        case cudaErrorInsufficientDriver:
            return "cudaErrorInsufficientDriver";
        case cudaErrorNoDevice:
            return "cudaErrorNoDevice";
        case cudaErrorInvalidDevice:
            return "cudaErrorInvalidDevice";
        case cudaErrorNoKernelImageForDevice:
            return "cudaErrorNoKernelImageForDevice";
        case cudaErrorInvalidResourceHandle:
            return "cudaErrorInvalidResourceHandle";
        case cudaErrorNotReady:
            return "cudaErrorNotReady";
        case cudaErrorStreamCaptureUnsupported:
            return "cudaErrorStreamCaptureUnsupported";
        case cudaErrorStreamCaptureInvalidated:
            return "cudaErrorStreamCaptureInvalidated";
    }
    return "cudaErrorUnknown";
}

const char* cudaGetErrorString(cudaError_t error) {
    return cudaGetErrorName(error);
}

cudaError_t cudaGetLastError() {
    return std::exchange(last_error, cudaSuccess);
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = 0;
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (driver < CUDART_VERSION / 1000 * 1000) return fail_with(cudaErrorInsufficientDriver);
    *count = runtime().devices;
    return *count > 0 ? cudaSuccess : fail_with(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= runtime().devices) return fail_with(cudaErrorInvalidDevice);
    device_of_thread = device;
    const std::lock_guard guard(lock());
    open_device();
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    *device = device_of_thread;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (device < 0 || device >= runtime().devices) return fail_with(cudaErrorInvalidDevice);
    *properties = {};
    std::strcpy(properties->name, "CUDA on the CPU");
    std::strcpy(properties->uuid.bytes, "on the CPU ");
    properties->uuid.bytes[15] = static_cast<char>(device);
    properties->totalGlobalMem = std::size_t{1} << 33;
    properties->sharedMemPerBlockOptin = largest_shared;
    properties->major = 9;
    properties->multiProcessorCount = 4;
    properties->l2CacheSize = 1 << 22;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
    const char* driver = std::getenv("CUDA_ON_CPU_DRIVER");  // 0: there is none
    *version = driver != nullptr ? std::atoi(driver) : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
    finish_all();
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    const std::lock_guard guard(lock());
    open_device();
    *stream = new CUstream_st{};
    (*stream)->device = device_of_thread;
    runtime().streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const std::lock_guard guard(lock());
    if (!usable(stream)) return fail_with(cudaErrorInvalidResourceHandle);
    if (stream->captured != nullptr) die("a stream is destroyed while it is captured");
    run_to(stream, stream->given);
    for (const cudaEvent_t event : runtime().events)
        if (event->stream == stream) event->stream = nullptr;
    runtime().streams.erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const std::lock_guard guard(lock());
    if (!usable(stream)) return fail_with(cudaErrorInvalidResourceHandle);
    if (refused_in_capture(stream)) return fail_with(cudaErrorStreamCaptureUnsupported);
    run_to(stream, stream->given);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    const std::lock_guard guard(lock());
    if (!usable(stream)) return fail_with(cudaErrorInvalidResourceHandle);
    if (refused_in_capture(stream)) return fail_with(cudaErrorStreamCaptureUnsupported);
    if (stream->done == stream->given) return cudaSuccess;
    run_next(stream);  // asked often enough it is done
    return cudaErrorNotReady;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    const std::lock_guard guard(lock());
    open_device();
    *event = new CUevent_st{device_of_thread, (flags & cudaEventDisableTiming) == 0};
    runtime().events.insert(*event);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    const std::lock_guard guard(lock());
    if (!usable(event)) return fail_with(cudaErrorInvalidResourceHandle);
    runtime().events.erase(event);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const std::lock_guard guard(lock());
    if (!usable(event) || !usable(stream) || event->device != stream->device)
        return fail_with(cudaErrorInvalidResourceHandle);
    if (refused_in_capture(stream)) return fail_with(cudaErrorStreamCaptureUnsupported);
    event->stream = stream;
    event->position = stream->given;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    const std::lock_guard guard(lock());
    if (!usable(event) || !usable(stream)) return fail_with(cudaErrorInvalidResourceHandle);
    if (refused_in_capture(stream)) return fail_with(cudaErrorStreamCaptureUnsupported);
    if (event->stream == nullptr || event->stream == stream) return cudaSuccess;
    return enqueue_until(stream, [other = event->stream, position = event->position] {
        if (!runtime().streams.contains(other)) return true;
        if (ahead && other->done < position) return false;
        run_to(other, position);
        return true;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const std::lock_guard guard(lock());
    if (!usable(event)) return fail_with(cudaErrorInvalidResourceHandle);
    if (event->stream != nullptr) run_to(event->stream, event->position);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    const std::lock_guard guard(lock());
    if (!usable(event)) return fail_with(cudaErrorInvalidResourceHandle);
    if (event->stream == nullptr || event->stream->done >= event->position) return cudaSuccess;
    run_next(event->stream);
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
    const std::lock_guard guard(lock());
    if (!usable(from) || !usable(to) || !from->timed || !to->timed)
        return fail_with(cudaErrorInvalidResourceHandle);
    *milliseconds = 0;
    return cudaSuccess;
}

namespace {

// Pinned memory is read, and written, by the time that something waits for the stream, or before.
cudaError_t copy_pinned(const void* pinned, std::size_t bytes, bool to_device, cudaStream_t stream,
                        std::function<void()> work) {
    const auto* start = static_cast<const std::byte*>(pinned);
    std::vector<std::byte> before(to_device ? start : nullptr, to_device ? start + bytes : nullptr);
    count_pinned_copy(pinned, 1);
    const cudaError_t error = enqueue(stream, [=, before = std::move(before), work = std::move(work)] {
        if (to_device && std::memcmp(pinned, before.data(), bytes) != 0)
            die("pinned memory was written while its copy of %zu bytes to the device was under way", bytes);
        work();
        count_pinned_copy(pinned, -1);
    });
    if (error != cudaSuccess) count_pinned_copy(pinned, -1);
    if (error == cudaSuccess && copies_come_early()) run_ahead(stream);
    return error;
}

}  // namespace

// Host memory that isn't pinned is written before the call returns. CUDA promises no more than that it may be
// read by then: it must stay as it is until something waits for the stream.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    const std::lock_guard guard(lock());
    if (bytes == 0) return cudaSuccess;
    const bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
    if (in_device_memory(to, 1) != to_device || in_device_memory(from, 1) != from_device)
        return fail_with(cudaErrorInvalidValue);
    if ((to_device && !in_device_memory(to, bytes)) || (from_device && !in_device_memory(from, bytes)))
        return fail_with(cudaErrorInvalidValue);
    if (kind == cudaMemcpyDeviceToDevice) return enqueue(stream, [=] { copy(to, from, bytes); });
    if (refused_in_capture(stream)) return fail_with(cudaErrorStreamCaptureUnsupported);
    if (to_device) {
        if (in_pinned_memory(from, bytes))
            return copy_pinned(from, bytes, true, stream, [=] { copy(to, from, bytes); });
        const auto* start = static_cast<const std::byte*>(from);
        return enqueue(stream, [=, staged = std::vector<std::byte>(start, start + bytes)] {
            if (std::memcmp(from, staged.data(), bytes) != 0)
                die("host memory was written before its copy of %zu bytes to the device: a GPU that shares "
                    "the "
                    "host's page tables reads it in place",
                    bytes);
            copy(to, staged.data(), bytes);
        });
    }
    if (in_pinned_memory(to, bytes))
        return copy_pinned(to, bytes, false, stream, [=] { copy_out(to, from, bytes); });
    const cudaError_t error = enqueue(stream, [=] { copy_out(to, from, bytes); });
    if (error == cudaSuccess) run_to(stream, stream->given);
    return error;
}

cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream) {
    const std::lock_guard guard(lock());
    if (bytes == 0) return cudaSuccess;
    if (!in_device_memory(p, bytes)) return fail_with(cudaErrorInvalidValue);
    return enqueue(stream, [=] {
        const Access access;
        std::memset(p, value, bytes);
    });
}
