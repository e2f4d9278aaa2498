#pragma once
// What kernels have in common: sums of a warp and of a block, in fixed orders, and where the passing items of
// a block go. Shared memory is the launch's alone; a kernel cuts it up itself.

#include <cuda_runtime.h>

#include <cstdint>

#include "device/cuda/tables.h"

extern __shared__ __align__(16) unsigned char strata_shared[];

namespace strata::device::cuda {

inline constexpr unsigned all_lanes = 0xffffffffU;
inline constexpr unsigned block_threads = 128, block_warps = block_threads / 32;
// Of a multiprocessor, for kernels that wait for gathered rows: 64 registers let a thread have many loads
// under way, where the compiler by itself takes fewer registers and waits for each.
inline constexpr unsigned most_blocks = 8;

__device__ inline unsigned lane() {
    return threadIdx.x & 31;
}
__device__ inline unsigned warp() {
    return threadIdx.x >> 5;
}
// Of all warps of the grid.
__device__ inline std::int64_t global_warp() {
    return static_cast<std::int64_t>(blockIdx.x) * (blockDim.x >> 5) + warp();
}
__device__ inline std::int64_t global_thread() {
    return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// The sum of the lanes' values, by halves: lane i and i + 16, then i + 8, ... In all lanes.
template <typename T>
__device__ inline T fold(T value) {
    for (int by = 16; by > 0; by /= 2) value = value + __shfl_xor_sync(all_lanes, value, by);
    return value;
}

// The sums of the values of the lanes up to this one, and from this one on.
template <typename T>
__device__ inline T sum_up_to(T value) {
    for (unsigned by = 1; by < 32; by *= 2) {
        const T other = __shfl_up_sync(all_lanes, value, by);
        if (lane() >= by) value += other;
    }
    return value;
}
template <typename T>
__device__ inline T sum_from(T value) {
    for (unsigned by = 1; by < 32; by *= 2) {
        const T other = __shfl_down_sync(all_lanes, value, by);
        if (lane() + by < 32) value += other;
    }
    return value;
}

// The dot product whose value counts: 32 chains of fused multiply-adds, one to a lane, folded by halves; the
// same bits as the CPU's. In all lanes. Reads 8 n bytes, coalesced.
__device__ inline float warp_dot(const float* a, const float* b, std::int64_t n) {
    float sum = 0;
    for (std::int64_t i = lane(); i < n; i += 32) sum = fmaf(a[i], b[i], sum);
    return fold(sum);
}

// The sum over the block, in all threads, by warps in their order. `scratch`: [warps] in shared memory.
template <typename T>
__device__ inline T block_sum(T value, T* scratch) {
    value = fold(value);
    __syncthreads();
    if (lane() == 0) scratch[warp()] = value;
    __syncthreads();
    T sum = scratch[0];
    for (unsigned w = 1; w < blockDim.x / 32; ++w) sum = sum + scratch[w];
    return sum;
}

// What a row gives to DecodeSums, [row_numbers] of it in their order; y_square = |y|^2, inner = y . x_hat.
__device__ inline void put_row_sums(double* sums, double squared_error, double prefix_error, double l1,
                                    double y_square, double inner, double x_hat_square, double active) {
    const double square = y_square * x_hat_square;
    sums[0] = squared_error;
    sums[1] = prefix_error;
    sums[2] = l1;
    sums[3] = square > 0 ? inner / sqrt(square) : 0;
    sums[4] = inner;
    sums[5] = x_hat_square;
    sums[6] = active;
}

// Neighbouring columns of a row, read and written at once: one, or four at addresses that are multiples
// of 16.
template <int width>
struct Columns {
    float value[width] = {};

    __device__ static Columns load(const float* p) {
        Columns c;
        if constexpr (width == 4) {
            const float4 four = *reinterpret_cast<const float4*>(p);
            c.value[0] = four.x;
            c.value[1] = four.y;
            c.value[2] = four.z;
            c.value[3] = four.w;
        } else {
            c.value[0] = *p;
        }
        return c;
    }
    __device__ void store(float* p) const {
        if constexpr (width == 4)
            *reinterpret_cast<float4*>(p) = make_float4(value[0], value[1], value[2], value[3]);
        else
            *p = value[0];
    }
    // this += factor * other
    __device__ void add(float factor, const Columns& other) {
        for (int i = 0; i < width; ++i) value[i] = fmaf(factor, other.value[i], value[i]);
    }
    __device__ double square() const {
        double sum = 0;
        for (int i = 0; i < width; ++i) sum += static_cast<double>(value[i]) * value[i];
        return sum;
    }
};

// How many passing items come before the thread's, and in the whole block. `scratch`: [warps] in shared
// memory.
struct Place {
    unsigned before, total;
};
__device__ inline Place block_place(bool passes, unsigned* scratch) {
    const unsigned bits = __ballot_sync(all_lanes, passes);
    __syncthreads();
    if (lane() == 0) scratch[warp()] = static_cast<unsigned>(__popc(bits));
    __syncthreads();
    Place place{static_cast<unsigned>(__popc(bits & ((1U << lane()) - 1))), 0};
    for (unsigned w = 0; w < blockDim.x / 32; ++w) {
        if (w < warp()) place.before += scratch[w];
        place.total += scratch[w];
    }
    return place;
}

}  // namespace strata::device::cuda
