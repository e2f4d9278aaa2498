#include "device/cuda/graphs.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"

namespace strata::device::cuda {
namespace {

constexpr std::size_t most_graphs = 64;  // the SAEs of a process, twice over
constexpr const char* of_graphs = "the encoder's graph";

}  // namespace

Graphs::~Graphs() {
    for (const Graph& graph : graphs_)
        if (graph.made != nullptr) cudaGraphExecDestroy(graph.made);
}

void Graphs::run(Key key, const Stream& stream, const std::function<void()>& work) {
    key.push_back(array_moves());
    const auto found = std::ranges::find(graphs_, key, &Graph::key);
    if (found == graphs_.end()) {
        graphs_.push_front({std::move(key)});
        if (graphs_.size() > most_graphs) {
            if (graphs_.back().made != nullptr) cudaGraphExecDestroy(graphs_.back().made);  // once it has run
            graphs_.pop_back();
        }
        work();
        return;
    }
    graphs_.splice(graphs_.begin(), graphs_, found);
    Graph& graph = graphs_.front();
    if (graph.made == nullptr && !refused_) graph.made = make(stream, work);
    if (graph.made != nullptr)
        check(cudaGraphLaunch(graph.made, stream), "cudaGraphLaunch", of_graphs);
    else
        work();
}

// Null, and a warning, if it is refused.
cudaGraphExec_t Graphs::make(const Stream& stream, const std::function<void()>& work) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t made = nullptr;
    std::string why;
    // Of this thread: others go on allocating and copying.
    cudaError_t status = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    if (status == cudaSuccess) {
        try {
            work();
        } catch (const RunError& error) {
            why = error.what();
        }
        status = cudaStreamEndCapture(stream, &graph);
    }
    if (status == cudaSuccess && why.empty()) status = cudaGraphInstantiate(&made, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (made != nullptr) return made;
    cudaGetLastError();  // which the next launch would find
    refused_ = true;
    log::warn("the encoder's kernels are launched one by one, since CUDA makes no graph of them: {}",
              why.empty() ? cudaGetErrorString(status) : why);
    return nullptr;
}

}  // namespace strata::device::cuda
