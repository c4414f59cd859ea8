#pragma once

// Rows of channels, held in vector registers while a kernel works on them.

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "smooseg/detail/kernels/math.hpp"
#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::crf::detail {

using smooseg::detail::Array;
using smooseg::detail::Isa;
using smooseg::detail::Wide;

/// `parts` vectors of `lanes` numbers each.
template <class Scalar, int lanes, int parts>
struct Registers {
  Array<Wide<Scalar, lanes>, parts> part = {};

  SMOOSEG_INLINE void load(const Scalar* from) {
    SMOOSEG_UNROLL
    for (int i = 0; i < parts; ++i) smooseg::detail::load(part[i], from + i * lanes);
  }
  SMOOSEG_INLINE void store(Scalar* to) const {
    SMOOSEG_UNROLL
    for (int i = 0; i < parts; ++i) smooseg::detail::store(to + i * lanes, part[i]);
  }
  SMOOSEG_INLINE void multiply(Scalar factor) {
    SMOOSEG_UNROLL
    for (int i = 0; i < parts; ++i) part[i] = part[i] * factor;
  }
  SMOOSEG_INLINE void add_product(const Registers& other, Scalar factor) {
    SMOOSEG_UNROLL
    for (int i = 0; i < parts; ++i) part[i] = part[i] + other.part[i] * factor;
  }
  SMOOSEG_INLINE Scalar largest() const {
    Wide<Scalar, lanes> result = part[0];
    SMOOSEG_UNROLL
    for (int i = 1; i < parts; ++i) smooseg::detail::raise<Scalar, lanes>(result, part[i]);
    return smooseg::detail::largest_lane<Scalar, lanes>(result);
  }
  /// Replaces x by exp(x - shift). @return the sum of these.
  SMOOSEG_INLINE Scalar exponentiate(Scalar shift) {
    Wide<Scalar, lanes> sum = {};
    SMOOSEG_UNROLL
    for (int i = 0; i < parts; ++i) {
      part[i] = part[i] - shift;
      smooseg::detail::exponential<lanes>(part[i]);
      sum = sum + part[i];
    }
    return smooseg::detail::sum_of_lanes<Scalar, lanes>(sum);
  }
};

/// `width` channels of a vertex or point, in the widest vectors that they fill.
template <class Scalar, Isa isa, int width, int lanes = std::min(width, smooseg::detail::kLanes<Scalar, isa>)>
using Row = Registers<Scalar, lanes, width / lanes>;

/// Number of channels that a row is padded to: 4, 8, 16 or a multiple of 32, for which kernels are compiled.
inline std::size_t padded_channels(std::size_t channels) {
  for (std::size_t width = 4; width <= 16; width *= 2) {
    if (channels <= width) return width;
  }
  return (channels + 31) / 32 * 32;
}

/// Calls f(width, stride) for rows of `stride` padded channels: `width`, of which a kernel takes so many channels at a
/// time, is a constant (std::integral_constant), and so is `stride` where it equals that.
template <class F>
void with_width(std::size_t stride, const F& f) {
  const auto call = [&](auto width) { f(width, std::integral_constant<std::size_t, decltype(width)::value>()); };
  if (stride == 4) return call(std::integral_constant<int, 4>());
  if (stride == 8) return call(std::integral_constant<int, 8>());
  if (stride == 16) return call(std::integral_constant<int, 16>());
  if (stride == 32) return call(std::integral_constant<int, 32>());
  f(std::integral_constant<int, 32>(), stride);
}

}  // namespace smooseg::crf::detail
