#pragma once

// Rotary positions (Su et al., 2021): queries and keys are turned by angles that say where their tokens lie, so that
// their products depend on where the tokens lie to each other.

#include <ATen/Functions.h>
#include <c10/util/BFloat16.h>
#include <torch/types.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "smooseg/detail/kernels/rows.hpp"
#include "smooseg/detail/kernels/simd.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// The angles of N tokens, of which channel c and channel c + d/2 of a head are turned as a pair. An undefined one turns
/// nothing.
struct Rotation {
  Tensor cos, sin;        ///< (N,d/2), contiguous, float32 or float64
  bool bfloat16 = false;  ///< whether each number on the way is rounded to bfloat16

  bool defined() const { return cos.defined(); }

  /// With cosines and sines of this dtype.
  Rotation to(torch::ScalarType dtype) const {
    return defined() ? Rotation{cos.to(dtype), sin.to(dtype), bfloat16} : Rotation();
  }
};

/// The rows of a `Rotation` from some token on, as kernels read them.
template <class T>
struct Turns {
  Rows<const T> cos{nullptr, 0}, sin{nullptr, 0};
  bool bfloat16 = false;

  SMOOSEG_INLINE bool defined() const { return cos.data != nullptr; }
  SMOOSEG_INLINE Turns from(int64_t token) const {
    return defined() ? Turns{cos.at(token, 0), sin.at(token, 0), bfloat16} : Turns{};
  }
};

/// @param rotation with numbers of type T; it must outlive the result.
template <class T>
Turns<T> turns_of(const Rotation& rotation) {
  if (!rotation.defined()) return {};
  const auto rows = [](const Tensor& t) { return Rows<const T>{t.data_ptr<T>(), t.size(1)}; };
  return {rows(rotation.cos), rows(rotation.sin), rotation.bfloat16};
}

/// The bits of numbers rounded to bfloat16 (to nearest, ties to even), in the upper halves.
template <int lanes>
SMOOSEG_INLINE void bfloat16_bits(const Wide<float, lanes>& x, Wide<std::uint32_t, lanes>& bits) {
  using Bits = Wide<std::uint32_t, lanes>;
  constexpr std::uint32_t kNan = 0x7FC00000, kUpper = 0xFFFF0000;
  const auto unequal = x != x;
  Bits is_nan;
  std::memcpy(&is_nan, &unequal, sizeof(is_nan));
  std::memcpy(&bits, &x, sizeof(bits));
  bits += ((bits >> 16) & 1u) + 0x7FFFu;
  bits = ((bits & ~is_nan) | (is_nan & kNan)) & kUpper;
}

/// x = x rounded to bfloat16.
template <int lanes>
SMOOSEG_INLINE void round_to_bfloat16(Wide<float, lanes>& x) {
  Wide<std::uint32_t, lanes> bits;
  bfloat16_bits<lanes>(x, bits);
  std::memcpy(&x, &bits, sizeof(x));
}
template <int lanes>
SMOOSEG_INLINE void round_to_bfloat16(Wide<double, lanes>& x) {
  for (int i = 0; i < lanes; ++i) x[i] = static_cast<double>(static_cast<c10::BFloat16>(static_cast<float>(x[i])));
}

/// Numbers of any type as those that a kernel computes with.
template <class T, int lanes, class In>
SMOOSEG_INLINE void load_wide(Wide<T, lanes>& x, const In* from) {
  if constexpr (std::is_same_v<In, T>) {
    load(x, from);
  } else if constexpr (std::is_same_v<In, c10::BFloat16> && std::is_same_v<T, float>) {
    Wide<std::uint16_t, lanes> bits;
    load(bits, from);
    const auto upper = __builtin_convertvector(bits, Wide<std::uint32_t, lanes>) << 16;
    std::memcpy(&x, &upper, sizeof(x));
  } else {
    for (int i = 0; i < lanes; ++i) x[i] = static_cast<T>(from[i]);
  }
}

/// And back.
template <class T, int lanes, class Out>
SMOOSEG_INLINE void store_narrow(Out* to, const Wide<T, lanes>& x) {
  if constexpr (std::is_same_v<Out, T>) {
    store(to, x);
  } else {
    static_assert(std::is_same_v<Out, c10::BFloat16> && std::is_same_v<T, float>);
    Wide<std::uint32_t, lanes> bits;
    bfloat16_bits<lanes>(x, bits);
    store(to, __builtin_convertvector(bits >> 16, Wide<std::uint16_t, lanes>));
  }
}

/// out (rows,d) = factor times x (rows,d) turned.
struct Rotate {
  template <Isa isa, class T, class In, class Out>
  SMOOSEG_INLINE static void run(int64_t rows, int64_t d, Rows<const In> x, Turns<T> turns, T factor, Rows<Out> out) {
    const int64_t half = d / 2;
    for (int64_t r = 0; r < rows; ++r) {
      for_strips<isa, T>(half, [&](auto strip, int64_t j) SMOOSEG_INLINE_LAMBDA {
        constexpr int kStrip = decltype(strip)::value;
        using W = Wide<T, kStrip>;
        W a = {}, b = {}, cos, sin;  // GCC at -O2 does not see that all lanes are set
        load_wide<T, kStrip>(a, x[r] + j);
        load_wide<T, kStrip>(b, x[r] + half + j);
        load(cos, turns.cos[r] + j);
        load(sin, turns.sin[r] + j);
        W first, second;
        if (turns.bfloat16) {
          round_to_bfloat16<kStrip>(a);
          round_to_bfloat16<kStrip>(b);
          W crossed_first = b * sin, crossed_second = a * sin;
          first = a * cos;
          second = b * cos;
          round_to_bfloat16<kStrip>(crossed_first);
          round_to_bfloat16<kStrip>(crossed_second);
          round_to_bfloat16<kStrip>(first);
          round_to_bfloat16<kStrip>(second);
          first -= crossed_first;
          second += crossed_second;
          round_to_bfloat16<kStrip>(first);
          round_to_bfloat16<kStrip>(second);
        } else {
          first = a * cos - b * sin;
          second = b * cos + a * sin;
        }
        first *= factor;
        second *= factor;
        store_narrow<T, kStrip>(out[r] + j, first);
        store_narrow<T, kStrip>(out[r] + half + j, second);
      });
    }
  }
};

/// x turned, by LibTorch's operators, which record gradients.
/// @param x (B,heads,N,d). @return the same shape and dtype.
inline Tensor rotated(const Tensor& x, const Rotation& rotation) {
  if (!rotation.defined()) return x;
  const auto dtype = rotation.bfloat16 ? torch::kBFloat16 : at::promote_types(torch::kFloat32, x.scalar_type());
  const auto for_both_halves = [&](const Tensor& t) { return at::cat({t, t}, -1).to(x.device(), dtype); };
  const Tensor wide = x.to(dtype);
  const std::vector<Tensor> halves = wide.chunk(2, -1);
  const Tensor crossed = at::cat({-halves[1], halves[0]}, -1);
  return (wide * for_both_halves(rotation.cos) + crossed * for_both_halves(rotation.sin)).to(x.scalar_type());
}

}  // namespace smooseg::detail
