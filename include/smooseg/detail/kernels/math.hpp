#pragma once

// Functions of `Wide` for kernels (see simd.hpp): maxima, exponentials and sums over lanes.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::detail {

/// a = max(a, b), lane by lane.
template <class T, int lanes>
SMOOSEG_INLINE void raise(Wide<T, lanes>& a, const Wide<T, lanes>& b) {
  a = a < b ? b : a;
}

/// a = min(a, b), lane by lane.
template <class T, int lanes>
SMOOSEG_INLINE void lower(Wide<T, lanes>& a, const Wide<T, lanes>& b) {
  a = b < a ? b : a;
}

/// The largest lane. By halves, which a compiler turns into a few instructions; those of less than a register it would
/// send through memory.
template <class T, int lanes>
SMOOSEG_INLINE T largest_lane(const Wide<T, lanes>& a) {
  const auto larger = [](T x, T y) SMOOSEG_INLINE_LAMBDA { return x < y ? y : x; };
  if constexpr (lanes == 1) {
    return a[0];
  } else if constexpr (lanes == 2) {
    return larger(a[0], a[1]);
  } else if constexpr (lanes == 4) {
    return larger(larger(a[0], a[1]), larger(a[2], a[3]));
  } else {
    Wide<T, lanes / 2> low, high;
    std::memcpy(&low, &a, sizeof(low));
    std::memcpy(&high, reinterpret_cast<const char*>(&a) + sizeof(low), sizeof(high));
    raise<T, lanes / 2>(low, high);
    return largest_lane<T, lanes / 2>(low);
  }
}

/// The largest of n numbers, n a multiple of `lanes` and not 0.
template <class T, int lanes>
SMOOSEG_INLINE T largest_of(std::int64_t n, const T* x) {
  Wide<T, lanes> largest;
  load(largest, x);
  for (std::int64_t i = lanes; i < n; i += lanes) {
    Wide<T, lanes> value;
    load(value, x + i);
    raise<T, lanes>(largest, value);
  }
  return largest_lane<T, lanes>(largest);
}

/// The sum of the lanes.
template <class T, int lanes>
SMOOSEG_INLINE T sum_of_lanes(const Wide<T, lanes>& a) {
  if constexpr (lanes == 1) {
    return a[0];
  } else if constexpr (lanes == 2) {
    return a[0] + a[1];
  } else if constexpr (lanes == 4) {
    return (a[0] + a[2]) + (a[1] + a[3]);
  } else {
    Wide<T, lanes / 2> low, high;
    std::memcpy(&low, &a, sizeof(low));
    std::memcpy(&high, reinterpret_cast<const char*>(&a) + sizeof(low), sizeof(high));
    low += high;
    return sum_of_lanes<T, lanes / 2>(low);
  }
}

/// Below this argument `exponential` returns 0: such probabilities matter to nothing, and products with them would
/// leave the range of normal numbers, where processors are slow.
constexpr float kLeastExponent = -60;

/// x = exp(x), lane by lane, for x up to 88; within 2 units in the last place of the true value, 0 below
/// `kLeastExponent`. With n = round(x / ln 2), exp(x) = 2^n exp(x - n ln 2), and a polynomial for the second factor,
/// whose argument is at most ln(2) / 2.
template <int lanes>
SMOOSEG_INLINE void exponential(Wide<float, lanes>& x) {
  using Bits = Wide<std::uint32_t, lanes>;  // unsigned: what is far below wraps around, before it is replaced by 0
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
  constexpr float kRound = 12582912, kInverseLn2 = 1.44269504088896f;
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // n times the first is exact
  const Wide<float, lanes> shifted = x * kInverseLn2 + kRound;
  const Wide<float, lanes> n = shifted - kRound;
  const Wide<float, lanes> r = (x - n * kLn2High) - n * kLn2Low;
  Wide<float, lanes> p = r * (1 / 5040.f) + 1 / 720.f;
  p = p * r + 1 / 120.f;
  p = p * r + 1 / 24.f;
  p = p * r + 1 / 6.f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1;
  Bits exponent, bits;
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  std::memcpy(&bits, &p, sizeof(bits));
  bits += exponent << 23;
  std::memcpy(&p, &bits, sizeof(p));
  x = x < kLeastExponent ? Wide<float, lanes>{} : p;
}
template <int lanes>
SMOOSEG_INLINE void exponential(Wide<double, lanes>& x) {
  Array<double, lanes> lane;
  store(lane, x);
  for (double& value : lane) value = value < kLeastExponent ? 0 : std::exp(value);
  load(x, lane);
}

}  // namespace smooseg::detail
