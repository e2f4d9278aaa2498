#pragma once
// CUDA's runtime as this backend uses it: checked calls, a stream, arrays, and the one way to launch a
// kernel.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

namespace strata::device::cuda {

// RunError that names the call, what it was for and its bytes, and CUDA's words.
[[noreturn]] void fail_call(cudaError_t error, const char* call, const char* what, std::size_t bytes);

// An invariant of the program itself; for what nvcc compiles, which the formats of base/error.h are beyond.
void require(bool holds, const char* what);

inline void check(cudaError_t error, const char* call, const char* what, std::size_t bytes = 0) {
    if (error != cudaSuccess) fail_call(error, call, what, bytes);
}

// An owned stream of the calling thread's device that waits for no other.
class Stream {
  public:
    Stream() {
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate", "the step");
    }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    operator cudaStream_t() const { return stream_; }
    void wait(const char* what) const {
        check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize", what);
        ++waits_;
    }
    std::uint64_t waits() const { return waits_; }

  private:
    cudaStream_t stream_ = nullptr;
    mutable std::uint64_t waits_ = 0;
};

// An owned event, by which one stream waits for another, or the host for either.
class Event {
  public:
    Event() {
        check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate", "the step");
    }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    operator cudaEvent_t() const { return event_; }
    // It comes when the stream has done what it was given so far.
    void record(cudaStream_t stream, const char* what) const {
        check(cudaEventRecord(event_, stream), "cudaEventRecord", what);
    }
    // What the stream is given from here on comes after it.
    void hold(cudaStream_t stream, const char* what) const {
        check(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent", what);
    }

  private:
    cudaEvent_t event_ = nullptr;
};

// Owned host memory that the GPU reads by itself, so that a copy goes on while the host does other things.
class PinnedMemory {
  public:
    PinnedMemory(std::size_t bytes, const char* what) : bytes_(bytes) {
        if (bytes > 0) check(cudaMallocHost(&data_, bytes), "cudaMallocHost", what, bytes);
    }
    ~PinnedMemory() { cudaFreeHost(data_); }
    PinnedMemory(PinnedMemory&& other) noexcept
        : bytes_(std::exchange(other.bytes_, 0)), data_(std::exchange(other.data_, nullptr)) {}
    PinnedMemory& operator=(PinnedMemory&& other) noexcept {
        std::swap(bytes_, other.bytes_);
        std::swap(data_, other.data_);
        return *this;
    }
    std::span<std::byte> bytes() const { return {static_cast<std::byte*>(data_), bytes_}; }

  private:
    std::size_t bytes_;
    void* data_ = nullptr;
};

// How often an array of this process got other memory.
std::uint64_t array_moves();
void count_array_move();

// An owned array in device memory. Its memory holds nothing until it is written.
template <typename T>
class DeviceArray {
  public:
    explicit DeviceArray(const char* name) : name_(name) {}
    ~DeviceArray() { cudaFree(data_); }
    DeviceArray(DeviceArray&& other) noexcept
        : name_(other.name_),
          data_(std::exchange(other.data_, nullptr)),
          size_(std::exchange(other.size_, 0)) {}
    DeviceArray& operator=(DeviceArray&& other) noexcept {
        std::swap(name_, other.name_);
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }

    // Room for `size` elements; drops the contents where there is less, and makes twice the room, but no more
    // than `most`. Waits for the device then.
    void grow(std::int64_t size, std::int64_t most = std::numeric_limits<std::int64_t>::max()) {
        if (size <= size_) return;
        size = std::max(size, std::min(2 * size_, most));
        size_ = 0;
        check(cudaFree(std::exchange(data_, nullptr)), "cudaFree", name_);
        const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(T);
        void* p = nullptr;
        check(cudaMalloc(&p, bytes), "cudaMalloc", name_, bytes);
        data_ = static_cast<T*>(p);
        size_ = size;
        count_array_move();
    }
    T* data() const { return data_; }
    std::int64_t size() const { return size_; }
    std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(T); }
    const char* name() const { return name_; }

  private:
    const char* name_;
    T* data_ = nullptr;
    std::int64_t size_ = 0;
};

// Queues the copy, if there is anything to copy. `from` must stay as it is until the stream is waited for:
// memory that is not pinned is copied at once by most drivers, but read in place where the GPU shares the
// host's page tables (Grace Hopper).
template <typename T>
void upload(std::span<const T> from, T* to, cudaStream_t stream, const char* what) {
    if (from.empty()) return;
    check(cudaMemcpyAsync(to, from.data(), from.size_bytes(), cudaMemcpyHostToDevice, stream),
          "cudaMemcpyAsync to the device", what, from.size_bytes());
}

template <typename T>
void upload(std::span<const T> from, DeviceArray<T>& to, cudaStream_t stream) {
    to.grow(static_cast<std::int64_t>(from.size()));
    upload(from, to.data(), stream, to.name());
}

// Waits for the stream, if there is anything to copy.
template <typename T>
void download(const T* from, std::span<T> to, const Stream& stream, const char* what) {
    if (to.empty()) return;
    check(cudaMemcpyAsync(to.data(), from, to.size_bytes(), cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync to the host", what, to.size_bytes());
    stream.wait(what);
}

// Numbers on their way to the host, where they are asked for later: by then the stream may have been waited
// for, for something else.
template <typename T>
class Arriving {
  public:
    explicit Arriving(const char* name) : name_(name) {}
    void make_room(std::int64_t count, const Stream& stream) {
        const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
        if (memory_.bytes().size() >= bytes) return;
        stream.wait(name_);  // for a copy into memory that goes
        memory_ = PinnedMemory(bytes, name_);
    }
    // Queues the copy; what came before is no longer there.
    void send(const T* from, std::int64_t count, const Stream& stream) {
        make_room(count, stream);
        size_ = static_cast<std::size_t>(count);
        sent_ = stream.waits();
        if (count > 0)
            check(cudaMemcpyAsync(memory_.bytes().data(), from, size_ * sizeof(T), cudaMemcpyDeviceToHost,
                                  stream),
                  "cudaMemcpyAsync to the host", name_, size_ * sizeof(T));
    }
    // What was sent last, until the next send().
    std::span<const T> get(const Stream& stream) const {
        if (stream.waits() == sent_ && size_ > 0) stream.wait(name_);
        return {reinterpret_cast<const T*>(memory_.bytes().data()), size_};
    }

  private:
    const char* name_;
    PinnedMemory memory_{0, name_};
    std::size_t size_ = 0;
    std::uint64_t sent_ = 0;
};

template <typename T>
void fill_zero(T* p, std::int64_t size, cudaStream_t stream, const char* what) {
    if (size == 0) return;
    const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(T);
    check(cudaMemsetAsync(p, 0, bytes, stream), "cudaMemsetAsync", what, bytes);
}

// The one way to launch a kernel; nothing if the grid is empty. More than 48 KiB of shared memory has to be
// asked for.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared,
            cudaStream_t stream, Arguments&&... arguments) {
    if (grid.x == 0 || grid.y == 0) return;
    if (shared > 48 * 1024)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared)),
              "cudaFuncSetAttribute", name, shared);
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), "launch of kernel",
          name, shared);
}

// Blocks of `size` that hold `count`.
inline unsigned blocks_of(std::int64_t count, std::int64_t size) {
    return static_cast<unsigned>((count + size - 1) / size);
}

}  // namespace strata::device::cuda
