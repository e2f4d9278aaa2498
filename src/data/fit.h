#pragma once
// What rows tell of their targets before any training: where a transcoder's encoder begins.

#include "base/memory.h"
#include "comm/communicator.h"
#include "config/config.h"
#include "data/dataset.h"
#include "data/stream.h"

namespace strata::data {

// The affine map of least squared error over 16 n sampled rows x and their targets y, unscaled:
//   y ~ E y + (x - E x) map,   map = (C_xx + 0.001 tr(C_xx)/n I)^-1 C_xy
// where C are the covariances. The small ridge keeps directions in which rows hardly differ from counting.
struct TargetFit {
    Array<float> map;        // [n, n], of row x and column y
    double mean_square = 0;  // E|(x - E x) map|^2
};

// Collective; the dataset has targets. Rows over the limit of measure() are left out, and corrupt ones as
// there. Takes 48 n^3 operations in float32, divided among the ranks and their threads, and in double 2 n^3
// on the threads of rank 0 and n^3/3 on one of them; 22 n^2 bytes of each rank, of which the map stays. The
// same bits on all ranks, at any number of threads; at another number of ranks to rounding. RunError where
// values are too large for float32 sums.
TargetFit fit_target(const Dataset& dataset, const DataConfig& config, const InputStatistics& statistics,
                     Communicator& comm);

}  // namespace strata::data
