#pragma once
// Eigen's products and solutions with the same bits on every machine, at any number of threads and whatever
// the process did before.

#include <Eigen/Core>

namespace strata {

// Eigen cuts the sums of a product by the sizes of caches that it finds, and otherwise where it divides the
// product among threads. One size for all; and products are to be made inside a parallel region, a thread to
// a block that does not depend on their number.
inline void fix_block_sizes() {
    Eigen::setCpuCacheSizes(32 << 10, 512 << 10, 4 << 20);
}

}  // namespace strata
