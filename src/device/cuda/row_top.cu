// The k largest of every row: lists of candidates whose limits rise while the latents go by, and selection by
// the bits of positive floats, whose order is that of their values.

#include <limits>

#include "device/cuda/cuda_device.h"
#include "device/cuda/device_code.h"
#include "device/cuda/filter.h"

namespace strata::device {
namespace cuda {

constexpr unsigned radix_bins = 256;
constexpr std::size_t radix_bytes = (radix_bins + 2 + block_warps) * sizeof(unsigned);

// What is among the k largest of a row: keys above `key`, and the first `ties` that equal it.
struct Cut {
    std::uint32_t key;
    std::uint32_t ties;
};

// The k-th largest of the keys key_of(0 .. count), where 0 stands for none; {0, 0} if there are fewer than k,
// or exactly k. By four digits of eight bits, the block's threads together; `bins` has radix_bins + 2
// elements.
template <typename Key>
__device__ Cut block_cut(std::int64_t count, std::uint32_t k, const Key& key_of, unsigned* bins) {
    std::uint32_t prefix = 0, left = k;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (unsigned i = threadIdx.x; i < radix_bins; i += blockDim.x) bins[i] = 0;
        __syncthreads();
        for (std::int64_t e = threadIdx.x; e < count; e += blockDim.x) {
            const std::uint32_t key = key_of(e);
            if (key != 0 && (shift == 24 || (key >> shift >> 8) == prefix))
                atomicAdd(&bins[(key >> shift) & 255], 1U);
        }
        __syncthreads();
        if (warp() == 0) {
            // Lane l has the bins [8 l, 8 l + 8); `above`: keys in the bins of the lanes after it.
            unsigned own = 0;
            for (unsigned i = 0; i < 8; ++i) own += bins[8 * lane() + i];
            const unsigned sum = sum_from(own);
            unsigned above = sum - own;
            const unsigned all = __shfl_sync(all_lanes, sum, 0);
            if (all < left && lane() == 0) bins[radix_bins] = radix_bins;  // fewer than k
            if (above < left && left <= sum) {
                unsigned bin = 8 * lane() + 7;
                while (above + bins[bin] < left) above += bins[bin--];
                bins[radix_bins] = bin;
                bins[radix_bins + 1] = above;
            }
        }
        __syncthreads();
        if (bins[radix_bins] == radix_bins) return {0, 0};
        prefix = prefix << 8 | bins[radix_bins];
        left -= bins[radix_bins + 1];
        __syncthreads();
    }
    return {prefix, left};
}

__global__ void fill(float* values, std::int64_t count, float value) {
    const std::int64_t i = global_thread();
    if (i < count) values[i] = value;
}

struct RowLists {
    std::uint32_t* latent;
    float* value;
    std::uint32_t* used;
    std::int64_t room;
    const ErrorOfRow* row_errors;
    const ErrorOfLatent* latent_errors;
    const float* bias;
    const std::uint32_t* names;
    DeviceMask mask;
    std::int64_t first_row;
    float* limit;       // of all
    float* open_limit;  // of those not masked, which is the lower one
};

// Raises the limits of a row to the k-th largest of what its pre-activations are at least, and drops what is
// below them; a block to a row. Reads 12 to 20 bytes of each of the list's pairs eight times, from L2.
__global__ void prune_list(RowLists s, std::uint32_t k) {
    auto* bins = reinterpret_cast<unsigned*>(strata_shared);
    unsigned* scratch = bins + radix_bins + 2;
    const std::int64_t r = blockIdx.x;
    const std::int64_t used = s.used[r] < s.room ? s.used[r] : s.room;
    if (used <= k) return;
    std::uint32_t* latents = s.latent + r * s.room;
    float* values = s.value + r * s.room;
    const ErrorOfRow row = s.row_errors[r];
    const auto masked = [&](std::int64_t e) {
        const std::uint32_t j = latents[e];
        return s.mask(s.first_row + r, s.names == nullptr ? j : s.names[j]);
    };
    const auto at_least = [&](std::int64_t e) {
        const std::uint32_t j = latents[e];
        const ErrorOfLatent latent = s.latent_errors[j];
        const float least = values[e] - 2.0001F * (fmaf(row.off, latent.norm, row.norm * latent.off) +
                                                   0x1p-21F * (fabsf(s.bias[j]) + fabsf(values[e])));
        return least > 0 ? __float_as_uint(least) : 0U;
    };
    const Cut all = block_cut(used, k, at_least, bins);
    const float limit = all.key == 0 ? s.limit[r] : __uint_as_float(all.key);
    float open_limit = limit;
    if (s.mask.probability != nullptr) {
        const Cut open = block_cut(
            used, k, [&](std::int64_t e) { return masked(e) ? 0U : at_least(e); }, bins);
        open_limit = open.key == 0 ? s.open_limit[r] : __uint_as_float(open.key);
    }
    std::uint32_t kept = 0;
    for (std::int64_t start = 0; start < used; start += blockDim.x) {
        const std::int64_t e = start + threadIdx.x;
        const std::uint32_t j = e < used ? latents[e] : 0;
        const float most = e < used ? values[e] : 0;
        const bool stays = e < used && !(most < open_limit) && (!(most < limit) || !masked(e));
        const Place place = block_place(stays, scratch);
        if (stays) {
            latents[kept + place.before] = j;
            values[kept + place.before] = most;
        }
        kept += place.total;
    }
    if (threadIdx.x != 0) return;
    if (s.used[r] <= s.room) s.used[r] = kept;  // else the list lacks pairs, and will be made again
    s.limit[r] = limit;
    s.open_limit[r] = open_limit;
}

// Sets `bit` in the marks of each row's k largest pairs, ties to the lower latent; a block to a row.
__global__ void mark_largest(PairsView pairs, DeviceMask mask, std::uint32_t k, std::uint32_t bit,
                             std::uint32_t* taken) {
    auto* bins = reinterpret_cast<unsigned*>(strata_shared);
    unsigned* scratch = bins + radix_bins + 2;
    const std::int64_t r = blockIdx.x;
    const std::uint32_t begin = pairs.begin[r];
    const std::int64_t count = pairs.begin[r + 1] - begin;
    const auto key_of = [&](std::int64_t e) {
        return mask(r, pairs.latent[begin + e]) ? 0U : __float_as_uint(pairs.value[begin + e]);
    };
    Cut cut{0, 0};
    if (count > k) cut = block_cut(count, k, key_of, bins);
    for (std::int64_t start = 0; start < count; start += blockDim.x) {
        const std::int64_t e = start + threadIdx.x;
        const std::uint32_t key = e < count ? key_of(e) : 0;
        const bool tie = key != 0 && key == cut.key;
        const Place place = block_place(tie, scratch);
        if (key > cut.key || (tie && place.before < cut.ties)) taken[begin + e] |= bit;
        cut.ties -= place.total < cut.ties ? place.total : cut.ties;
    }
}

__global__ void gather_rows(const float* w, const float* b, const std::uint32_t* names, std::int64_t count,
                            std::int64_t n, float* rows, float* biases) {
    const std::int64_t i = global_warp();
    if (i >= count) return;
    const std::int64_t j = names[i];
    for (std::int64_t c = lane(); c < n; c += 32) rows[i * n + c] = w[j * n + c];
    if (lane() == 0) biases[i] = b[j];
}

// Codes that were marked.
struct Taken {
    const std::uint32_t* taken;
    __device__ bool operator()(std::int64_t, std::uint32_t e, std::uint32_t, float) const {
        return taken[e] != 0;
    }
    __device__ float code(std::uint32_t, float value) const { return value; }
};

}  // namespace cuda

using namespace cuda;

void CudaDevice::start_limits(std::int64_t rows) {
    for (const DeviceArray<float>* limits : {&row_limit_, &open_limit_})
        launch("fill", fill, blocks_of(rows, block_threads), block_threads, 0, stream_, limits->data(), rows,
               std::numeric_limits<float>::min());
}

void CudaDevice::prune_lists(const Screen& screen, std::int64_t first, std::int64_t rows) {
    const RowLists lists{list_latent_.data(),
                         list_value_.data(),
                         list_used_.data(),
                         list_room_,
                         row_errors_.data() + (first - loaded_.first),
                         latent_errors_.data(),
                         screen.b_enc,
                         screen.names,
                         device_mask(screen.with_mask),
                         first,
                         row_limit_.data(),
                         open_limit_.data()};
    launch("prune_list", prune_list, static_cast<unsigned>(rows), block_threads, radix_bytes, stream_, lists,
           static_cast<std::uint32_t>(screen.k));
}

void CudaDevice::screen_row_top(const Tensors& sae, std::int64_t k, std::span<const std::uint32_t> subset) {
    Screen screen{.k = k,
                  .with_mask = has_mask_ && subset.empty(),
                  .w_enc = sae.w_enc.data(),
                  .b_enc = sae.b_enc.data(),
                  .latents = sae.width};
    if (!subset.empty()) {
        const std::int64_t count = std::ssize(subset);
        cuda::upload(subset, subset_, stream_);
        subset_weights_.grow(count * n_, sae.width * n_);
        subset_bias_.grow(count);
        launch("gather_rows", gather_rows, blocks_of(count, block_warps), block_threads, 0, stream_,
               sae.w_enc.data(), sae.b_enc.data(), subset_.data(), count, n_, subset_weights_.data(),
               subset_bias_.data());
        screen.w_enc = subset_weights_.data();
        screen.b_enc = subset_bias_.data();
        screen.names = subset_.data();
        screen.latents = count;
    }
    list_room_ = std::max(list_room_, std::min(tile_.latents, screen.latents) + 4 * k);
    screen_rows(screen, 0);
    mark_row_top(k, false, 1, true);
    if (screen.with_mask) mark_row_top(k, true, 2, false);
    keep_marked();
}

void CudaDevice::mark_row_top(std::int64_t k, bool masked, std::uint32_t bit, bool clear) {
    taken_.grow(candidates_.most);
    if (clear && candidates_.most > 0)
        fill_zero(taken_.data(), candidates_.most, stream_, "marks of candidates");
    launch("mark_largest", mark_largest, static_cast<unsigned>(rows_), block_threads, radix_bytes, stream_,
           view_of(candidates_), device_mask(masked), static_cast<std::uint32_t>(k), bit, taken_.data());
}

void CudaDevice::keep_marked() {
    filter(candidates_, Taken{taken_.data()}, other_candidates_, nullptr);
    std::swap(candidates_, other_candidates_);
}

void CudaDevice::cap_rows(std::int64_t cap) {
    mark_row_top(cap, false, 1, true);
    keep_marked();
}

void CudaDevice::keep_row_top(CodeSet set, std::int64_t k, bool masked) {
    mark_row_top(k, masked, 1, true);
    keep_if(set, candidates_, Taken{taken_.data()});
}

}  // namespace strata::device
