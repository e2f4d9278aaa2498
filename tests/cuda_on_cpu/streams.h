#pragma once
// Devices, streams and graphs, for streams.cpp and graphs.cpp.

#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "cuda_on_cpu.h"
#include "state.h"

struct CUgraph_st {
    std::vector<std::function<bool()>> work;
};
struct CUgraphExec_st {
    int device;
    std::vector<std::function<bool()>> work;
};

struct CUstream_st {
    int device = 0;
    std::deque<std::function<bool()>> work;
    std::uint64_t given = 0, done = 0;
    // What it is given while it is captured, in place of doing it; spoilt by what a graph cannot hold.
    std::unique_ptr<CUgraph_st> captured;
    bool spoilt = false;
};

struct CUevent_st {
    int device;
    bool timed;
    cudaStream_t stream = nullptr;  // null: nothing recorded
    std::uint64_t position = 0;
};

namespace cuda_on_cpu {

struct Runtime {
    int devices;
    std::set<cudaStream_t> streams;
    std::set<cudaEvent_t> events;
    std::set<cudaGraph_t> graphs;
    std::set<cudaGraphExec_t> made_graphs;
    bool makes_graphs = true, uploads_graphs = true;
    std::uint64_t launches = 0;
    std::map<const void*, int> allowed_shared;
    std::set<int> opened;
    Runtime() {
        const char* count = std::getenv("CUDA_ON_CPU_DEVICES");
        devices = count != nullptr ? std::atoi(count) : 8;
    }
};

Runtime& runtime();

// A stream of the thread's device.
bool usable(cudaStream_t stream);

// Whether the stream is captured, which spoils it: for what a graph cannot hold.
bool refused_in_capture(cudaStream_t stream);

// The thread's current GPU.
int current_device();

}  // namespace cuda_on_cpu
