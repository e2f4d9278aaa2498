#pragma once
// Element types of activation files, to and from float32. Vectorised for the CPU at hand (Highway); every
// target gives the same bits, except that the hardware quiets signalling NaNs.

#include <cstddef>
#include <cstdint>
#include <span>

#include "data/dataset.h"

namespace strata::data {

// out[i] = scale * in[i]. `in` holds out.size() elements of `type` in the machine's byte order. Memory bound:
// about the speed of a copy of the bytes read and written. Subnormals, infinities and NaNs are kept.
void to_float(Type type, std::span<const std::byte> in, std::span<float> out, float scale = 1);

// Rounds to nearest, ties to even; too large for the type becomes infinity; NaN stays NaN, quiet.
void from_float(Type type, std::span<const float> in, std::span<std::byte> out);

// Copies bytes that are not read again soon, past the caches where `out` is aligned as vectors are: neither
// are its old contents fetched, nor are others displaced. The same thread may read them at once; another must
// learn of them through a lock.
void copy_past_cache(std::span<const std::byte> in, std::span<std::byte> out);

// |row|^2 in float32 for a row of `type`: 32 partial sums however wide a vector is, folded pairwise, so that
// which rows pass a limit does not depend on the machine. Not finite if an element is not, or if the sum
// overflows.
float sum_of_squares(Type type, std::span<const std::byte> row);

}  // namespace strata::data
