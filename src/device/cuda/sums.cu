// Sums in fixed orders: of columns over rows, of parts, of the ranks' tensors.

#include <algorithm>

#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"

namespace strata::device {
namespace cuda {

// The sums of each column over groups of 64 rows, [row groups, n]; a thread to a column. Reads 4 bytes an
// element.
__global__ void add_column_groups(const float* rows, std::int64_t count, std::int64_t n, double* sums) {
    const std::int64_t c = global_thread();
    if (c >= n) return;
    double sum = 0;
    for (std::int64_t b = blockIdx.y * 64; b < blockIdx.y * 64 + 64 && b < count; ++b) sum += rows[b * n + c];
    sums[blockIdx.y * n + c] = sum;
}

// sums[c] = keep sums[c] + factor (the parts' sum in their order); parts [count, n].
__global__ void add_parts_of_columns(const double* parts, std::int64_t count, std::int64_t n, double keep,
                                     double factor, double* sums) {
    const std::int64_t c = global_thread();
    if (c >= n) return;
    double sum = 0;
    for (std::int64_t g = 0; g < count; ++g) sum += parts[g * n + c];
    sums[c] = factor * sum + (keep == 0 ? 0 : keep * sums[c]);
}

__global__ void square_rows(const float* rows, std::int64_t count, std::int64_t n, double* squares) {
    const std::int64_t r = global_warp();
    if (r >= count) return;
    const float square = warp_dot(rows + r * n, rows + r * n, n);
    if (lane() == 0) squares[r] = square;
}

constexpr std::int64_t piece = 4096;  // elements that a block sums

// The sums of pieces, in a fixed order. Reads 8 bytes an element.
__global__ void add_pieces(const double* parts, std::int64_t count, double* out) {
    auto* scratch = reinterpret_cast<double*>(strata_shared);
    double sum = 0;
    for (std::int64_t i = blockIdx.x * piece + threadIdx.x; i < (blockIdx.x + 1) * piece && i < count;
         i += blockDim.x)
        sum += parts[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

constexpr int most_ranks = 16;
struct Parts {
    int count;
    const float* of_rank[most_ranks];
};

// Pieces of the ranks' sum and their squares; a block to a piece. Reads 4 bytes an element and rank.
__global__ void add_in_order(Parts parts, std::int64_t count, float* out, double* squares) {
    auto* scratch = reinterpret_cast<double*>(strata_shared);
    double square = 0;
    for (std::int64_t i = blockIdx.x * piece + threadIdx.x; i < (blockIdx.x + 1) * piece && i < count;
         i += blockDim.x) {
        float sum = parts.of_rank[0][i];
        for (int r = 1; r < parts.count; ++r) sum += parts.of_rank[r][i];
        if (out != nullptr) out[i] = sum;
        square += static_cast<double>(sum) * sum;
    }
    square = block_sum(square, scratch);
    if (threadIdx.x == 0) squares[blockIdx.x] = square;
}

__global__ void take_row_norms(const float* rows, std::int64_t count, std::int64_t n, float* norms) {
    const std::int64_t r = global_warp();
    if (r >= count) return;
    const float square = warp_dot(rows + r * n, rows + r * n, n);
    if (lane() == 0) norms[r] = sqrtf(square);
}

}  // namespace cuda

using namespace cuda;

// sums = keep sums + factor (the parts [count, n] added in their order).
void CudaDevice::add_column_parts(std::int64_t count, double keep, double factor, double* sums) {
    launch("add_parts_of_columns", add_parts_of_columns, blocks_of(n_, block_threads), block_threads, 0,
           stream_, partial_.data(), count, n_, keep, factor, sums);
}

// sums = the sums of the columns of rows [count, n] (added to what is there with `keep`): groups of rows,
// added in order.
void CudaDevice::add_columns(const float* rows, std::int64_t count, double* sums, bool keep) {
    const unsigned groups = blocks_of(count, 64), blocks = blocks_of(n_, block_threads);
    partial_.grow(std::max<std::int64_t>(1, groups) * n_);
    launch("add_column_groups", add_column_groups, dim3(blocks, groups), block_threads, 0, stream_, rows,
           count, n_, partial_.data());
    add_column_parts(groups, keep ? 1 : 0, 1, sums);
}

void CudaDevice::add_residual_columns(const Tensors& sae, std::span<double> sums) {
    column_sums_.grow(n_);
    add_columns(residuals(sae.groups() - 1), last_row_ - first_row_, column_sums_.data(), false);
    std::vector<double> own(sums.size());
    cuda::download(column_sums_.data(), std::span(own), stream_, "column sums");
    for (std::size_t c = 0; c < own.size(); ++c) sums[c] += own[c];
}

double CudaDevice::output_columns(const Tensors&, std::span<double> sums) {
    parts_.grow(capacity_);
    norms_.grow(1);
    column_sums_.grow(n_);
    fill_zero(column_sums_.data(), n_, stream_, "column sums");
    for (std::int64_t first = 0; first < rows_; first += room_) {
        const std::int64_t rows = std::min(room_, rows_ - first);
        load({first, first + rows});
        launch("square_rows", square_rows, blocks_of(rows, block_warps), block_threads, 0, stream_,
               output(first), rows, n_, parts_.data() + first);
        add_columns(output(first), rows, column_sums_.data(), true);
    }
    add_all(parts_.data(), rows_, norms_.data());
    norms_arriving_.send(norms_.data(), 1, stream_);
    cuda::download(column_sums_.data(), sums, stream_, "column sums");
    return norms_arriving_.get(stream_)[0];
}

// *sum = the sum of the parts: pieces, then pieces of their sums, until one is left.
void CudaDevice::add_all(const double* parts, std::int64_t count, double* sum) {
    if (count == 0) fill_zero(sum, 1, stream_, "a sum");
    if (count > piece) sums_.grow(2 * blocks_of(count, piece));
    for (double* out = sums_.data(); count > 0;) {
        const unsigned blocks = blocks_of(count, piece);
        launch("add_pieces", add_pieces, blocks, block_threads, block_warps * sizeof(double), stream_, parts,
               count, blocks == 1 ? sum : out);
        if (blocks == 1) return;
        parts = out;
        out += blocks;
        count = blocks;
    }
}

void CudaDevice::add_in_order(std::span<const float* const> of_ranks, std::size_t count, float* out,
                              double* norm) {
    require(of_ranks.size() <= most_ranks, "at most 16 ranks to a sum");
    Parts parts{static_cast<int>(of_ranks.size()), {}};
    std::copy(of_ranks.begin(), of_ranks.end(), parts.of_rank);
    const unsigned blocks = blocks_of(static_cast<std::int64_t>(count), piece);
    parts_.grow(blocks);
    launch("add_in_order", cuda::add_in_order, blocks, block_threads, block_warps * sizeof(double), stream_,
           parts, static_cast<std::int64_t>(count), out, parts_.data());
    add_all(parts_.data(), blocks, norm);
}

double CudaDevice::sum_in_order(std::span<const float* const> of_ranks, std::size_t count, float* out) {
    norms_.grow(1);
    add_in_order(of_ranks, count, out, norms_.data());
    norms_arriving_.send(norms_.data(), 1, stream_);
    return norms_arriving_.get(stream_)[0];
}

void CudaDevice::square_norms(std::span<const std::span<float>> arrays, std::span<double> norms) {
    norms_.grow(std::ssize(arrays));
    for (std::size_t i = 0; i < arrays.size(); ++i) {
        const float* data = arrays[i].data();
        add_in_order({&data, 1}, arrays[i].size(), nullptr, norms_.data() + i);
    }
    norms_arriving_.send(norms_.data(), std::ssize(arrays), stream_);
    std::ranges::copy(norms_arriving_.get(stream_), norms.begin());
}

// And for the sum of so many parts: before sums over ranks are under way, for which the making of memory may
// wait, however long they take.
void CudaDevice::make_room_for_norms(std::int64_t parts) {
    parts_.grow(parts);
    sums_.grow(2 * blocks_of(parts, piece));
    gradient_norm_.grow(1);
    gradient_norm_arriving_.make_room(1, stream_);
    norms_.grow(8);
    norms_arriving_.make_room(8, stream_);
}

// From parts_, so many.
void CudaDevice::send_gradient_norm(std::int64_t parts) {
    add_all(parts_.data(), parts, gradient_norm_.data());
    gradient_norm_arriving_.send(gradient_norm_.data(), 1, stream_);
}

double CudaDevice::gradient_norm() {
    return gradient_norm_arriving_.get(stream_)[0];
}

void CudaDevice::row_norms(std::span<const float> rows, std::span<float> norms) {
    const std::int64_t count = std::ssize(norms);
    square_weight_.grow(count);
    launch("take_row_norms", take_row_norms, blocks_of(count, block_warps), block_threads, 0, stream_,
           rows.data(), count, n_, square_weight_.data());
    cuda::download(square_weight_.data(), norms, stream_, "norms of rows");
}

}  // namespace strata::device
