#pragma once

// SiLU (Elfwing et al., 2018), x / (1 + exp(-x)), of rows of numbers.

#include <cstdint>

#include "smooseg/detail/kernels/math.hpp"
#include "smooseg/detail/kernels/rows.hpp"
#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::detail {

/// out = silu(x) for x (rows,n) and, unless `grad` holds no data, grad *= silu'(x), with one exponential for both. `out`
/// may be x.
struct Silu {
  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t rows, int64_t n, Rows<const T> x, Rows<T> out, Rows<T> grad) {
    for (int64_t r = 0; r < rows; ++r) {
      for_strips<isa, T>(n, [&](auto lanes, int64_t j) SMOOSEG_INLINE_LAMBDA {
        constexpr int kStrip = decltype(lanes)::value;
        using W = Wide<T, kStrip>;
        W value, gradient;
        load(value, x[r] + j);
        W sigmoid = value * T{-1};
        lower<T, kStrip>(sigmoid, W{} + T{80});  // whose exponential is still a number
        exponential<kStrip>(sigmoid);
        sigmoid = (W{} + T{1}) / (sigmoid + T{1});
        const W y = value * sigmoid;
        store(out[r] + j, y);
        if (grad.data == nullptr) return;
        load(gradient, grad[r] + j);
        store(grad[r] + j, gradient * (sigmoid + y * (W{} + T{1} - sigmoid)));
      });
    }
  }
};

}  // namespace smooseg::detail
