#include "device/cuda/graphs.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace strata::device::cuda {
namespace {

constexpr std::size_t most_graphs = 1000;  // more than SAEs fit on a GPU, which have one or two
constexpr const char* of_graphs = "the encoder's graph";

}  // namespace

Graphs::~Graphs() {
    forget(0);
}

// All but so many, the least used ones; each once it has run.
void Graphs::forget(std::size_t all_but) {
    for (; graphs_.size() > all_but; graphs_.pop_back())
        if (graphs_.back().made != nullptr) cudaGraphExecDestroy(graphs_.back().made);
}

void Graphs::run(Key key, const Stream& stream, const std::function<void()>& work) {
    const std::uint64_t moves = array_moves();
    if (std::exchange(moves_, moves) != moves) forget(0);
    const auto found = std::ranges::find(graphs_, key, &Graph::key);
    if (found == graphs_.end()) {
        graphs_.push_front({std::move(key)});
        forget(most_graphs);
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
    if (made != nullptr) {
        status = cudaGraphUpload(made, stream);  // here, where what it needs of memory may be refused
        if (status == cudaSuccess) return made;
        cudaGraphExecDestroy(made);
    }
    cudaGetLastError();  // which the next launch would find
    refused_ = true;
    log::warn("the encoder's kernels are launched one by one, since CUDA makes no graph of them: {}",
              why.empty() ? cudaGetErrorString(status) : why);
    return nullptr;
}

}  // namespace strata::device::cuda
