// Graphs: what a stream is given while it is captured, to be done whenever the graph is launched.

#include "streams.h"

namespace cuda_on_cpu {
namespace {

thread_local cudaStream_t captured_by_thread = nullptr;

}  // namespace

bool refused_in_capture(cudaStream_t stream) {
    if (stream == nullptr || stream->captured == nullptr) return false;
    stream->spoilt = true;
    return true;
}

bool refused_in_capture() {
    return refused_in_capture(captured_by_thread);
}

void set_graphs(bool made, bool uploaded) {
    runtime().makes_graphs = made;
    runtime().uploads_graphs = uploaded;
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    const std::lock_guard guard(lock());
    if (!usable(stream)) return fail_with(cudaErrorInvalidResourceHandle);
    if (mode != cudaStreamCaptureModeThreadLocal)
        die("cudaStreamBeginCapture: other threads, which copy batches, would spoil a capture of all "
            "threads");
    if (captured_by_thread != nullptr || stream->captured != nullptr) return fail_with(cudaErrorInvalidValue);
    stream->captured = std::make_unique<CUgraph_st>();
    stream->spoilt = false;
    captured_by_thread = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    const std::lock_guard guard(lock());
    *graph = nullptr;
    if (!usable(stream) || stream->captured == nullptr || captured_by_thread != stream)
        return fail_with(cudaErrorInvalidResourceHandle);
    captured_by_thread = nullptr;
    std::unique_ptr<CUgraph_st> captured = std::move(stream->captured);
    if (stream->spoilt || !runtime().makes_graphs) return fail_with(cudaErrorStreamCaptureInvalidated);
    *graph = captured.release();
    runtime().graphs.insert(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
    const std::lock_guard guard(lock());
    if (!runtime().graphs.contains(graph)) return fail_with(cudaErrorInvalidValue);
    *made = new CUgraphExec_st{current_device(), graph->work};
    runtime().made_graphs.insert(*made);
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t made, cudaStream_t stream) {
    const std::lock_guard guard(lock());
    if (!runtime().made_graphs.contains(made)) return fail_with(cudaErrorInvalidValue);
    if (!usable(stream) || stream->device != made->device) return fail_with(cudaErrorInvalidResourceHandle);
    return runtime().uploads_graphs ? cudaSuccess : fail_with(cudaErrorMemoryAllocation);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    const std::lock_guard guard(lock());
    if (runtime().graphs.erase(graph) == 0) return fail_with(cudaErrorInvalidValue);
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t made) {
    const std::lock_guard guard(lock());
    if (runtime().made_graphs.erase(made) == 0) return fail_with(cudaErrorInvalidValue);
    delete made;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t made, cudaStream_t stream) {
    const std::lock_guard guard(lock());
    if (!runtime().made_graphs.contains(made)) return fail_with(cudaErrorInvalidValue);
    if (!usable(stream) || stream->device != made->device) return fail_with(cudaErrorInvalidResourceHandle);
    ++runtime().launches;
    for (const std::function<bool()>& work : made->work)
        if (const cudaError_t error = enqueue_until(stream, work); error != cudaSuccess) return error;
    return cudaSuccess;
}
