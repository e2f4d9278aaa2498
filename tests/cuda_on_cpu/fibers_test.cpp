// CUDA on the CPU: that kernels run as they do on a GPU, and that what is wrong in one is reported.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "base/error.h"
#include "cuda_on_cpu.h"
#include "device/cuda/device_code.h"
#include "device/cuda/runtime.h"

// Kernels have names for the linker, so that messages can tell them.
namespace strata::device::cuda {

template <typename T>
static std::vector<T> on_host(const DeviceArray<T>& from, const Stream& stream) {
    std::vector<T> to(static_cast<std::size_t>(from.size()));
    download(from.data(), std::span(to), stream, from.name());
    return to;
}

struct CudaOnCpu : testing::Test {
    Stream stream;
    DeviceArray<float> a{"a"}, b{"b"};
    CudaOnCpu() { GTEST_FLAG_SET(death_test_style, "fast"); }
    void TearDown() override { cuda_on_cpu::set_order(0); }
    void put(std::span<const float> values, DeviceArray<float>& to) const {
        upload(values, to, stream);
        stream.wait("the values of a test");
    }
};

__global__ void add(const float* a, float* b, std::int64_t n) {
    const std::int64_t i = global_thread();
    if (i < n) b[i] += a[i];
}

__global__ void set(float* out, std::int64_t n) {
    const std::int64_t i = global_thread();
    if (i < n) out[i] = 1;
}

TEST_F(CudaOnCpu, ThreadsCoverTheGrid) {
    std::vector<float> values(1000);
    std::iota(values.begin(), values.end(), 0.0F);
    put(values, a);
    put(values, b);
    launch("add", add, blocks_of(1000, 64), 64, 0, stream, a.data(), b.data(), 1000);
    const std::vector<float> sums = on_host(b, stream);
    for (std::size_t i = 0; i < 1000; ++i) EXPECT_EQ(sums[i], 2 * values[i]);
}

__global__ void block_sums(const float* a, float* out, std::int64_t n) {
    auto* scratch = reinterpret_cast<float*>(strata_shared);
    const std::int64_t i = global_thread();
    const float sum = block_sum(i < n ? a[i] : 0.0F, scratch);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

TEST_F(CudaOnCpu, SumsOfWarpsAndBlocks) {
    std::vector<float> values(500);
    std::iota(values.begin(), values.end(), 1.0F);
    put(values, a);
    b.grow(4);
    for (const std::uint64_t order : {0, 1, 2}) {
        cuda_on_cpu::set_order(order);
        launch("block_sums", block_sums, 4, 128, 16, stream, a.data(), b.data(), 500);
        const std::vector<float> sums = on_host(b, stream);
        for (std::size_t i = 0; i < 4; ++i)
            EXPECT_EQ(sums[i], std::accumulate(
                                   values.begin() + static_cast<std::ptrdiff_t>(128 * i),
                                   values.begin() +
                                       static_cast<std::ptrdiff_t>(std::min<std::size_t>(500, 128 * i + 128)),
                                   0.0F));
    }
}

__global__ void compact(const float* a, float* out, float limit) {
    auto* scratch = reinterpret_cast<unsigned*>(strata_shared);
    const bool passes = a[threadIdx.x] > limit;
    const Place place = block_place(passes, scratch);
    if (passes) out[place.before] = a[threadIdx.x];
    if (threadIdx.x == 0) out[128] = static_cast<float>(place.total);
}

TEST_F(CudaOnCpu, PlacesOfPassingItems) {
    std::vector<float> values(128), none(129);
    for (std::size_t i = 0; i < 128; ++i) values[i] = static_cast<float>(i * 37 % 128);
    put(values, a);
    put(none, b);
    launch("compact", compact, 1, 128, 16, stream, a.data(), b.data(), 99.5F);
    std::vector<float> passing;
    for (const float v : values)
        if (v > 99.5F) passing.push_back(v);
    std::vector<float> found = on_host(b, stream);
    EXPECT_EQ(found[128], static_cast<float>(passing.size()));
    found.resize(passing.size());
    EXPECT_EQ(found, passing);
}

__global__ void shuffles(float* out) {
    const auto value = static_cast<float>(lane());
    out[threadIdx.x] = __shfl_sync(all_lanes, value, 5);
    out[32 + threadIdx.x] = __shfl_down_sync(all_lanes, value, 3U);
    out[64 + threadIdx.x] = __shfl_up_sync(all_lanes, value, 3U);
    out[96 + threadIdx.x] = __shfl_xor_sync(all_lanes, value, 6);
}

TEST_F(CudaOnCpu, Shuffles) {
    b.grow(128);
    launch("shuffles", shuffles, 1, 32, 0, stream, b.data());
    const std::vector<float> found = on_host(b, stream);
    for (int i = 0; i < 32; ++i) {
        const auto at = [&](int row) { return found[static_cast<std::size_t>(32 * row + i)]; };
        EXPECT_EQ(at(0), 5);
        EXPECT_EQ(at(1), i + 3 < 32 ? i + 3 : i);
        EXPECT_EQ(at(2), i >= 3 ? i - 3 : i);
        EXPECT_EQ(at(3), i ^ 6);
    }
}

// Work waits until it is waited for.
TEST_F(CudaOnCpu, PinnedMemoryIsWrittenOnlyByTheTimeOfAWait) {
    const std::vector<float> ones(8, 1.0F);
    put(ones, a);
    void* p = nullptr;
    ASSERT_EQ(cudaMallocHost(&p, 32), cudaSuccess);
    auto* pinned = static_cast<float*>(p);
    pinned[0] = 7;
    ASSERT_EQ(cudaMemcpyAsync(pinned, a.data(), 32, cudaMemcpyDeviceToHost, stream), cudaSuccess);
    EXPECT_EQ(pinned[0], 7);
    stream.wait("the copy");
    EXPECT_EQ(pinned[0], 1);
    cudaFreeHost(p);
}

// Copies from pinned memory come before another stream's work or after it, unless an event orders them.
TEST_F(CudaOnCpu, CopiesOfPinnedMemoryComeEarlyOrLate) {
    const PinnedMemory pinned(32, "ones");
    const std::vector<float> ones(8, 1.0F), zeros(8, 0.0F);
    std::ranges::copy(std::as_bytes(std::span(ones)), pinned.bytes().begin());
    Stream copies;
    const auto sum = [&](std::uint64_t order, bool first, bool held) {  // of what is there, and the ones
        cuda_on_cpu::set_order(order);
        put(zeros, a);
        put(zeros, b);
        stream.wait("zeros");
        const Event event;
        const auto copy = [&] {
            if (held && !first) event.hold(copies, "ones");
            EXPECT_EQ(cudaMemcpyAsync(a.data(), pinned.bytes().data(), 32, cudaMemcpyHostToDevice, copies),
                      cudaSuccess);
            if (held && first) event.record(copies, "ones");
        };
        if (first) copy();
        if (held && first) event.hold(stream, "ones");
        launch("add", add, 1, 32, 0, stream, a.data(), b.data(), 8);
        if (held && !first) event.record(stream, "ones");
        if (!first) copy();
        const float found = on_host(b, stream).front();
        copies.wait("ones");
        return found;
    };
    for (const std::uint64_t order : {0, 1}) {
        EXPECT_EQ(sum(order, true, true), 1);
        EXPECT_EQ(sum(order, false, true), 0);
    }
    EXPECT_EQ(sum(0, true, false), 0);   // read before it is there
    EXPECT_EQ(sum(1, false, false), 1);  // overwritten before it is read
}

TEST_F(CudaOnCpu, ReportsPinnedMemoryThatIsWrittenOrFreedUnderACopy) {
    a.grow(8);
    const auto copy = [&](const PinnedMemory& pinned) {
        EXPECT_EQ(cudaMemcpyAsync(a.data(), pinned.bytes().data(), 32, cudaMemcpyHostToDevice, stream),
                  cudaSuccess);
    };
    EXPECT_DEATH(
        {
            const PinnedMemory pinned(32, "rows");
            copy(pinned);
            pinned.bytes()[0] = std::byte{1};
            stream.wait("it");
        },
        "pinned memory was written while its copy of 32 bytes to the device was under way");
    EXPECT_DEATH(
        {
            const PinnedMemory pinned(32, "rows");
            copy(pinned);
        },
        "pinned memory is freed with a copy of it under way");
}

TEST_F(CudaOnCpu, EventsOrderStreams) {
    const std::vector<float> ones(8, 1.0F);
    Stream other;
    cudaEvent_t event = nullptr;
    ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    put(ones, a);
    put(ones, b);
    launch("add", add, 1, 32, 0, stream, a.data(), b.data(), 8);
    ASSERT_EQ(cudaEventRecord(event, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(other, event), cudaSuccess);
    EXPECT_EQ(on_host(b, other).front(), 2);
    EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
    EXPECT_EQ(cudaEventSynchronize(event), cudaErrorInvalidResourceHandle);
}

TEST_F(CudaOnCpu, WrongLaunchesAreErrors) {
    a.grow(32);
    EXPECT_THROW(launch("add", add, 1, 2048, 0, stream, a.data(), a.data(), 32), RunError);
    EXPECT_THROW(launch("add", add, 1, 32, 300 * 1024, stream, a.data(), a.data(), 32), RunError);
    EXPECT_THROW(launch("add", add, dim3(1, 70000), 32, 0, stream, a.data(), a.data(), 32), RunError);
    cudaLaunchConfig_t empty{dim3(0), dim3(32), 0, stream, nullptr, 0};
    EXPECT_EQ(cudaLaunchKernelEx(&empty, add, a.data(), a.data(), 32), cudaErrorInvalidConfiguration);
    EXPECT_DEATH(launch("add", add, 1, 48, 0, stream, a.data(), a.data(), 32), "whole warps");
    EXPECT_DEATH(launch("add", add, 1, 32, 0, nullptr, a.data(), a.data(), 32), "default stream");
    auto* freed = new Stream;
    const cudaStream_t handle = *freed;
    delete freed;
    EXPECT_THROW(launch("add", add, 1, 32, 0, handle, a.data(), a.data(), 32), RunError);
}

TEST_F(CudaOnCpu, TooLittleMemoryIsAnErrorThatSaysWhatToDo) {
    DeviceArray<float> large("the candidates");
    try {
        large.grow(std::int64_t{1} << 32);
        FAIL();
    } catch (const RunError& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr("17179869184 bytes for the candidates"));
        EXPECT_THAT(error.what(), testing::HasSubstr("of 8589934592 bytes free; reduce train.batch_size"));
    }
    large.grow(4);
    EXPECT_EQ(large.size(), 4);
}

TEST_F(CudaOnCpu, AnErrorOfCodeForOtherGpusSaysHowToBuildForThisOne) {
    try {
        check(cudaErrorNoKernelImageForDevice, "launch of kernel", "add");
        FAIL();
    } catch (const RunError& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr("launch of kernel for add"));
        EXPECT_THAT(error.what(), testing::HasSubstr("CMAKE_CUDA_ARCHITECTURES"));
    }
}

// What follows must be reported, each by a program that has just this fault.

TEST_F(CudaOnCpu, ReportsTheHostInDeviceMemory) {
    a.grow(8);
    EXPECT_DEATH(a.data()[3] = 1, "the host touches device memory: byte 12 of 32");
    EXPECT_DEATH(static_cast<void>(*static_cast<volatile float*>(a.data())),
                 "the host touches device memory");
}

TEST_F(CudaOnCpu, ReportsMemoryThatWasFreed) {
    const std::vector<float> ones(8, 1.0F);
    put(ones, b);
    void* p = nullptr;
    ASSERT_EQ(cudaMalloc(&p, 32), cudaSuccess);
    ASSERT_EQ(cudaFree(p), cudaSuccess);
    EXPECT_DEATH(
        {
            launch("add", add, 1, 32, 0, stream, static_cast<const float*>(p), b.data(), 8);
            stream.wait("it");
        },
        "kernel .*add.*byte 0 of 32 of device memory that was freed");
    EXPECT_EQ(cudaFree(p), cudaErrorInvalidValue);
}

TEST_F(CudaOnCpu, ReportsWritesBesideAnArray) {
    const auto write_to = [&](std::int64_t size, std::int64_t first, std::int64_t written) {
        DeviceArray<float> array("array");
        array.grow(size);
        launch("set", set, blocks_of(written, 32), 32, 0, stream, array.data() + first, written);
        stream.wait("it");
    };
    write_to(70, 0, 70);
    EXPECT_DEATH(write_to(70, 0, 71), "set.* wrote beyond an allocation of 280 bytes");
    EXPECT_DEATH(write_to(70, -1, 2), "set.* wrote before an allocation of 280 bytes");
    EXPECT_DEATH(write_to(64, 0, 65), "out of bounds, byte 256 of an allocation of 256");
}

TEST_F(CudaOnCpu, ReportsWritesBeyondSharedMemory) {
    a.grow(4);
    EXPECT_DEATH(
        {
            launch("block_sums", block_sums, 1, 128, 12, stream, a.data(), a.data(), 0);
            stream.wait("it");
        },
        "block_sums.* writes beyond its 12 bytes of shared memory");
}

__global__ void copy_four(const float* from, float* to) {
    if (threadIdx.x == 0) Columns<4>::load(from).store(to);
}

TEST_F(CudaOnCpu, ReportsVectorsThatAreNotAligned) {
    const std::vector<float> ones(8, 1.0F);
    put(ones, a);
    put(ones, b);
    const auto run = [&](const float* from, float* to) {
        launch("copy_four", copy_four, 1, 32, 0, stream, from, to);
        stream.wait("it");
    };
    run(a.data() + 4, b.data());
    EXPECT_DEATH(run(a.data() + 1, b.data()), "copy_four.*16 bytes at an address that is not a multiple");
    EXPECT_DEATH(run(a.data(), b.data() + 2), "copy_four.*16 bytes at an address that is not a multiple");
}

TEST_F(CudaOnCpu, ReportsHostMemoryThatDoesNotStayUntilItIsCopied) {
    std::vector<float> ones(8, 1.0F);
    upload(std::span<const float>(ones), a, stream);
    EXPECT_DEATH(
        {
            ones[3] = 2;
            stream.wait("a");
        },
        "host memory was written before its copy of 32 bytes to the device");
    stream.wait("a");
}

TEST_F(CudaOnCpu, ReportsResultsOfMemoryNeverWritten) {
    const std::vector<float> ones(8, 1.0F);
    put(ones, a);
    b.grow(8);
    EXPECT_DEATH(on_host(b, stream), "memory never written");
    launch("add", add, 1, 32, 0, stream, a.data(), b.data(), 8);
    EXPECT_DEATH(on_host(b, stream), "memory never written, or made from such: byte 0 of 32");
}

__global__ void diverging(float* a) {
    if (threadIdx.x < 16) a[threadIdx.x] = fold(1.0F);
}
__global__ void uneven_barriers(float* a) {
    if (threadIdx.x < 32) __syncthreads();
    a[threadIdx.x] = fold(1.0F);
    if (threadIdx.x >= 32) return;
    __syncthreads();
}
__global__ void partial_mask(float* a) {
    a[threadIdx.x] = __shfl_sync(0xffffU, 1.0F, 0);
}

TEST_F(CudaOnCpu, ReportsThreadsThatWaitForOthersInVain) {
    a.grow(64);
    const auto run = [&](void (*kernel)(float*)) {
        launch("kernel", kernel, 1, 64, 0, stream, a.data());
        stream.wait("it");
    };
    EXPECT_DEATH(run(diverging), "lanes 0000ffff of warp 0 wait in __shfl_xor_sync");
    run(uneven_barriers);  // as on a GPU, threads that left are waited for no more
    EXPECT_DEATH(run(partial_mask), "here all lanes take part");
}

// Without the barrier between the two the result depends on which warp comes first.
__global__ void racing(float* out) {
    auto* shared = reinterpret_cast<float*>(strata_shared);
    shared[threadIdx.x] = static_cast<float>(threadIdx.x);
    __syncwarp();
    out[global_thread()] = shared[(threadIdx.x + 32) % 64];
}
__global__ void last_block_wins(float* out) {
    if (threadIdx.x == 0) out[0] = static_cast<float>(blockIdx.x);
}

TEST_F(CudaOnCpu, OtherOrdersShowRaces) {
    a.grow(64);
    std::vector<float> blocks;
    for (const std::uint64_t order : {0, 1, 2, 3}) {
        cuda_on_cpu::set_order(order);
        launch("last_block_wins", last_block_wins, 9, 32, 0, stream, a.data());
        float last = 0;
        download(a.data(), std::span(&last, 1), stream, "last");
        blocks.push_back(last);
    }
    EXPECT_EQ(blocks.front(), 8);
    EXPECT_GT(std::ranges::count_if(blocks, [](float v) { return v != 8; }), 0);
    cuda_on_cpu::set_order(0);
    EXPECT_DEATH(
        {
            launch("racing", racing, 1, 64, 256, stream, a.data());
            on_host(a, stream);
        },
        "memory never written|data race");
}

#if defined(__SANITIZE_THREAD__)
// Whoever comes first in a run, each thread's own step is whole, so that no order shows it.
__global__ void losing_updates(float* sum) {
    *sum += 1;
}
__global__ void passing_on(float* out) {
    auto* shared = reinterpret_cast<float*>(strata_shared);
    for (int i = 0; i < 3; ++i) {
        __syncthreads();
        shared[threadIdx.x] = static_cast<float>(i);
        __syncthreads();
        out[threadIdx.x] = shared[(threadIdx.x + 32) % 64];
    }
}

TEST_F(CudaOnCpu, ThreadSanitizerShowsUpdatesThatAGpuMayLose) {
    a.grow(64);
    launch("passing_on", passing_on, 3, 64, 256, stream, a.data());
    stream.wait("it");
    EXPECT_DEATH(
        {
            launch("losing_updates", losing_updates, 1, 32, 0, stream, a.data());
            stream.wait("it");
        },
        "data race.*");
}
#endif

}  // namespace strata::device::cuda
