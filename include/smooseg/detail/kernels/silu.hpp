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
    constexpr int kVector = kLanes<T, isa>;
    for (int64_t r = 0; r < rows; ++r) {
      T* const gradient = grad.data == nullptr ? nullptr : grad[r];
      int64_t i = 0;
      for (; i + kVector <= n; i += kVector) apply<kVector>(x[r] + i, out[r] + i, gradient, i);
      for (; i < n; ++i) apply<1>(x[r] + i, out[r] + i, gradient, i);
    }
  }

 private:
  template <int lanes, class T>
  SMOOSEG_INLINE static void apply(const T* from, T* out, T* gradient, int64_t i) {
    using W = Wide<T, lanes>;
    W x;
    load(x, from);
    W sigmoid = x * T{-1};
    lower<T, lanes>(sigmoid, W{} + T{80});  // whose exponential is still a number
    exponential<lanes>(sigmoid);
    sigmoid = (W{} + T{1}) / (sigmoid + T{1});
    const W y = x * sigmoid;
    store(out, y);
    if (gradient == nullptr) return;
    W g;
    load(g, gradient + i);
    store(gradient + i, g * (sigmoid + y * (W{} + T{1} - sigmoid)));
  }
};

}  // namespace smooseg::detail
