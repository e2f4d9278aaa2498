#pragma once
// float16 as CUDA names it.

#include <cmath>
#include <cstdint>

struct __half {
    std::uint16_t bits;
};
inline float __half2float(__half value) {
    const int exponent = (value.bits >> 10) & 31, digits = value.bits & 1023;
    const float magnitude = exponent == 31  ? (digits == 0 ? INFINITY : NAN)
                            : exponent == 0 ? std::ldexp(static_cast<float>(digits), -24)
                                            : std::ldexp(static_cast<float>(1024 + digits), exponent - 25);
    return (value.bits >> 15) != 0 ? -magnitude : magnitude;
}
