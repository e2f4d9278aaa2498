#pragma once
// A training step on this machine, verb by verb, beside the plain float32 product x[B, n] . W[n, M] that
// dense trainers pay several times a step. Every figure is the best of the repeats, taken in turn in one
// process, so that their ratios hold on a shared machine. On a GPU there is no such product; what its memory
// can do shows the copy.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/memory.h"
#include "comm/communicator.h"
#include "device/device.h"
#include "train/step.h"

namespace strata::cli {

struct BenchArguments {
    std::int64_t rows = 4096, n = 576, width = 16384, warm_steps = 40, repeats = 6;
    std::optional<std::int64_t> aux_k;
    double k = 64;
    std::string kind = "batch_topk", sae;
    int threads = 0;
    std::vector<std::string> files;
    std::string dataset = "resid_post/*", form = "auto";
    bool json = false, atm = false, check = false;
    double dead = 0;
    bool avx2 = false;
    std::string where = "auto";
    device::CpuOptions cpu;
};

// This rank's rows of a fixed batch, and what they were multiplied by to be of about unit length: the first
// of a dataset, or sums of random directions, whose pre-activations have the heavy tail that real ones have.
struct FixedBatch {
    Array<float> x;
    double scale = 1;
};

// UsageError, of this rank alone, where the dataset is too small or of another width.
FixedBatch make_batch(const BenchArguments& a, const Communicator& comm);

// A thing timed: what it computes and moves at the least, rows that are gathered counted each time.
struct Case {
    std::string what;
    std::function<void()> work;
    double operations = 0, bytes = 0;
    double memory = 0;  // bytes without what is gathered again, which a cache could hold
    double narrow = 1;  // how many times the operations of float32 the instructions in use do
    double best = 1e30;
    double bound = 0;  // seconds, by the rates of the plain product and the copy, whichever is longer
};

// What was timed: a step, the copy of a matrix, on the CPU the plain product, then the verbs by themselves.
struct Timed {
    std::vector<Case> cases;
    bool plain_product;
    int ranks;
    std::int64_t rows;  // of this rank
    train::StepReport step;
    double density;
    std::string device;
    std::size_t workspace_bytes;
};

// All that the command measures; the same on all ranks. Collective.
Timed bench(const BenchArguments& a, Communicator& comm);

// On standard output, as a table or JSON.
void report_bench(const BenchArguments& a, Timed timed);

}  // namespace strata::cli
