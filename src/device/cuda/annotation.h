#pragma once
// What marks a function of one number at a time that a GPU's kernels call as well as the CPU's loops
// (device/element.h). Needs no header of CUDA's.

#ifdef __CUDACC__
#define STRATA_ELEMENT __host__ __device__ inline
#else
#define STRATA_ELEMENT inline
#endif
