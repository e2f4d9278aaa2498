// Graphs: what the stand-in allows while it captures, and what the backend does with them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "cuda_on_cpu.h"
#include "device/cuda/device_code.h"
#include "device/cuda/graphs.h"

namespace strata::device::cuda {

__global__ void add_to_all(float* values, std::int64_t n, float by) {
    const std::int64_t i = global_thread();
    if (i < n) values[i] += by;
}

class CudaGraphs : public testing::Test {
  protected:
    CudaGraphs() {
        GTEST_FLAG_SET(death_test_style, "fast");
        a.grow(8);
        fill_zero(a.data(), 8, stream, "zeros");
    }
    void TearDown() override { cuda_on_cpu::set_graphs(true); }
    void queue(float by) const {
        launch("add_to_all", add_to_all, 1, 32, 0, stream, a.data(), std::int64_t{8}, by);
    }
    float first() const {
        float value = 0;
        download(a.data(), std::span(&value, 1), stream, "a value");
        return value;
    }

    Stream stream;
    DeviceArray<float> a{"a"};
};

TEST_F(CudaGraphs, RunWhatWasCapturedWhenTheyAreLaunched) {
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    queue(1);
    queue(2);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t made = nullptr;
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    EXPECT_EQ(first(), 0);
    ASSERT_EQ(cudaGraphInstantiate(&made, graph), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaErrorInvalidValue);
    for (int i = 1; i <= 3; ++i) {
        EXPECT_EQ(cudaGraphLaunch(made, stream), cudaSuccess);
        EXPECT_EQ(first(), 3 * i);
    }
    EXPECT_EQ(cudaGraphExecDestroy(made), cudaSuccess);
    EXPECT_EQ(cudaGraphLaunch(made, stream), cudaErrorInvalidValue);
}

TEST_F(CudaGraphs, AreSpoiltByWaitsMemoryAndTheHostsMemory) {
    float of_host = 0;
    void* p = nullptr;
    const std::function<cudaError_t()> wrong[] = {
        [&] { return cudaStreamSynchronize(stream); },
        [&] { return cudaStreamQuery(stream); },
        [&] { return cudaMalloc(&p, 8); },
        [&] { return cudaMallocHost(&p, 8); },
        [&] { return cudaFree(a.data()); },
        [&] { return cudaMemcpyAsync(&of_host, a.data(), 4, cudaMemcpyDeviceToHost, stream); },
        [&] { return cudaMemcpyAsync(a.data(), &of_host, 4, cudaMemcpyHostToDevice, stream); }};
    for (const auto& call : wrong) {
        ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
        EXPECT_EQ(call(), cudaErrorStreamCaptureUnsupported);
        EXPECT_THROW(queue(1), RunError);
        cudaGraph_t graph = nullptr;
        EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
        EXPECT_EQ(graph, nullptr);
        EXPECT_EQ(first(), 0);
    }
    EXPECT_DEATH(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "other threads");
}

TEST_F(CudaGraphs, AreMadeTheSecondTimeAndOnlyOfTheSameWork) {
    Graphs graphs;
    int queued = 0;
    const auto run = [&](std::uint64_t key, float by) {
        graphs.run({key}, stream, [&] {
            ++queued;
            queue(by);
        });
        const float value = first();
        fill_zero(a.data(), 8, stream, "zeros");
        return value;
    };
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(run(7, 1), 1);
        EXPECT_EQ(run(8, 5), 5);
    }
    EXPECT_EQ(queued, 4);
    // An array that got other memory: nothing captured before may run.
    DeviceArray<float> b{"b"};
    b.grow(8);
    EXPECT_EQ(run(7, 2), 2);
    EXPECT_EQ(queued, 5);
    for (std::uint64_t key = 100; key < 2000; ++key) EXPECT_EQ(run(key, 3), 3);
    EXPECT_EQ(run(7, 4), 4) << "the least used ones are forgotten";
}

TEST_F(CudaGraphs, AreDoneWithoutWhereTheyAreRefused) {
    enum class Refusal { of_graph, of_memory, of_work };
    for (const Refusal refusal : {Refusal::of_graph, Refusal::of_memory, Refusal::of_work}) {
        cuda_on_cpu::set_graphs(refusal != Refusal::of_graph, refusal != Refusal::of_memory);
        Graphs graphs;
        testing::internal::CaptureStdout();
        for (int i = 1; i <= 4; ++i) {
            graphs.run({1}, stream, [&] {
                if (refusal == Refusal::of_work && i == 2) stream.wait("nothing");
                queue(1);
            });
            EXPECT_EQ(first(), i);
        }
        const std::string said = testing::internal::GetCapturedStdout();
        EXPECT_THAT(said, testing::HasSubstr("launched one by one"));
        EXPECT_THAT(said, testing::HasSubstr(refusal == Refusal::of_graph    ? "Invalidated"
                                             : refusal == Refusal::of_memory ? "MemoryAllocation"
                                                                             : "Unsupported"));
        EXPECT_EQ(said.find("one by one"), said.rfind("one by one")) << "said once";
        fill_zero(a.data(), 8, stream, "zeros");
    }
}

// Work that fails whether or not it is captured.
TEST_F(CudaGraphs, HandOnErrorsOfTheWorkItself) {
    Graphs graphs;
    const auto run = [&](unsigned threads) {
        graphs.run({1}, stream, [&] {
            launch("add_to_all", add_to_all, 1, threads, 0, stream, a.data(), std::int64_t{8}, 1.0F);
        });
    };
    EXPECT_THROW(run(2048), RunError);
    EXPECT_THROW(run(2048), RunError);
    run(32);
    EXPECT_EQ(first(), 1);
}

}  // namespace strata::device::cuda
