#pragma once

// What the losses do with each patch's vector, a column of a map (B,C,N), in one pass over memory: LibTorch's
// reductions over a dimension that is not the last take up to fifteen times as long (benchmarks/bench_products.cpp).
// Records no gradients.

#include <ATen/Functions.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "smooseg/detail/kernels/math.hpp"
#include "smooseg/detail/kernels/rows.hpp"
#include "smooseg/detail/kernels/simd.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// out[n] = sum_c x[c][n] y[c][n].
struct ColumnDots {
  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t channels, int64_t n, Rows<const T> x, Rows<const T> y, T* out) {
    constexpr int64_t kVector = kLanes<T, isa>, kTile = 8 * kVector;
    using W = Wide<T, kVector>;
    int64_t j = 0;
    for (; j + kTile <= n; j += kTile) panel<W, 8>(channels, j, x, y, out);
    for (; j + kVector <= n; j += kVector) panel<W, 1>(channels, j, x, y, out);
    for (; j < n; ++j) panel<T, 1>(channels, j, x, y, out);
  }

 private:
  template <class W, int64_t vectors, class T>
  SMOOSEG_INLINE static void panel(int64_t channels, int64_t j, Rows<const T> x, Rows<const T> y, T* out) {
    constexpr int64_t kVector = sizeof(W) / sizeof(T);
    Array<W, vectors> sums = {};
    for (int64_t c = 0; c < channels; ++c) {
      SMOOSEG_UNROLL
      for (int64_t v = 0; v < vectors; ++v) {
        W a, b;
        load(a, x[c] + j + v * kVector);
        load(b, y[c] + j + v * kVector);
        sums[v] += a * b;
      }
    }
    SMOOSEG_UNROLL
    for (int64_t v = 0; v < vectors; ++v) store(out + j + v * kVector, sums[v]);
  }
};

/// out[n] = 1 / max(|column n of x|, eps).
struct ColumnInverseNorms {
  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t channels, int64_t n, Rows<const T> x, T eps, T* out) {
    ColumnDots::run<isa>(channels, n, x, x, out);
    for (int64_t j = 0; j < n; ++j) out[j] = 1 / std::max(std::sqrt(out[j]), eps);
  }
};

/// out = exp(scale x) over its sum, column by column.
struct ColumnSoftmax {
  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t rows, int64_t n, Rows<const T> x, T scale, Rows<T> out) {
    for_strips<isa, T>(n, [&](auto lanes, int64_t j) SMOOSEG_INLINE_LAMBDA {
      constexpr int kStrip = decltype(lanes)::value;
      using W = Wide<T, kStrip>;
      W greatest, value = {}, sum = {};
      load(greatest, x[0] + j);
      for (int64_t k = 1; k < rows; ++k) {
        load(value, x[k] + j);
        raise<T, kStrip>(greatest, value);
      }
      for (int64_t k = 0; k < rows; ++k) {
        load(value, x[k] + j);
        value = (value - greatest) * scale;
        exponential<kStrip>(value);
        sum += value;
        store(out[k] + j, value);
      }
      const W factor = (W{} + T{1}) / sum;
      for (int64_t k = 0; k < rows; ++k) {
        load(value, out[k] + j);
        store(out[k] + j, value * factor);
      }
    });
  }
};

/// The gradient of a = softmax(scale x), column by column, from that to a: scale a (g - <a, g>).
struct ColumnSoftmaxBackward {
  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t rows, int64_t n, Rows<const T> a, Rows<const T> g, T scale, Rows<T> out) {
    for_strips<isa, T>(n, [&](auto lanes, int64_t j) SMOOSEG_INLINE_LAMBDA {
      Wide<T, decltype(lanes)::value> mean = {}, value, gradient;
      for (int64_t k = 0; k < rows; ++k) {
        load(value, a[k] + j);
        load(gradient, g[k] + j);
        mean += value * gradient;
      }
      for (int64_t k = 0; k < rows; ++k) {
        load(value, a[k] + j);
        load(gradient, g[k] + j);
        store(out[k] + j, value * (gradient - mean) * scale);
      }
    });
  }
};

/// Cross-entropy of softmax(x) against the greatest row of `teacher` (of equal ones the first), column by column, and
/// `weight` times its gradient to x.
struct ColumnCrossEntropy {
  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t rows, int64_t n, Rows<const T> x, Rows<const T> teacher, T weight, T* losses,
                                 Rows<T> grad) {
    for_strips<isa, T>(n, [&](auto lanes, int64_t j) SMOOSEG_INLINE_LAMBDA {
      constexpr int kStrip = decltype(lanes)::value;
      using W = Wide<T, kStrip>;
      W greatest, of_teacher, value = {}, row = {}, label = {}, sum = {};
      load(greatest, x[0] + j);
      load(of_teacher, teacher[0] + j);
      for (int64_t k = 1; k < rows; ++k) {
        load(value, x[k] + j);
        raise<T, kStrip>(greatest, value);
        load(value, teacher[k] + j);
        row += T{1};
        const auto is_greater = value > of_teacher;
        of_teacher = is_greater ? value : of_teacher;
        label = is_greater ? row : label;
      }
      for (int64_t k = 0; k < rows; ++k) {
        load(value, x[k] + j);
        value = value - greatest;
        exponential<kStrip>(value);
        sum += value;
        store(grad[k] + j, value);
      }
      const W factor = (W{} + weight) / sum;
      for (int64_t k = 0; k < rows; ++k) {
        load(value, grad[k] + j);
        store(grad[k] + j, value * factor);
      }
      for (int l = 0; l < kStrip; ++l) {
        const auto k = static_cast<int64_t>(label[l]);
        losses[j + l] = greatest[l] + std::log(sum[l]) - x[k][j + l];
        grad[k][j + l] -= weight;
      }
    });
  }
};

/// The gradient of y = x scale with scale = 1 / max(|x|, eps), column by column, from that to y, g, to which offset[r] is
/// added in row r unless `offset` is null: (g - y <y, g>) scale; where |x| is below eps, y is linear in x: g scale.
struct ColumnUnitBackward {
  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t rows, int64_t n, Rows<const T> x, Rows<const T> g, const T* scale, T eps,
                                 const T* offset, Rows<T> out) {
    for_strips<isa, T>(n, [&](auto lanes, int64_t j) SMOOSEG_INLINE_LAMBDA {
      constexpr int kStrip = decltype(lanes)::value;
      Wide<T, kStrip> along = {}, factor, position, gradient;
      const auto load_row = [&](int64_t r) SMOOSEG_INLINE_LAMBDA {
        load(position, x[r] + j);
        load(gradient, g[r] + j);
        if (offset != nullptr) gradient += offset[r];
      };
      for (int64_t r = 0; r < rows; ++r) {
        load_row(r);
        along += position * gradient;
      }
      load(factor, scale + j);
      along *= factor * factor;
      for (int l = 0; l < kStrip; ++l) along[l] = factor[l] * eps >= 1 ? 0 : along[l];
      for (int64_t r = 0; r < rows; ++r) {
        load_row(r);
        store(out[r] + j, (gradient - position * along) * factor);
      }
    });
  }
};

/// Whether the kernels can read a map (B,R,N) column by column.
inline bool has_columns(const Tensor& t) {
  return has_kernels(t) && has_contiguous_rows(t);
}

/// 1 / max(|x|, eps): (B,C,N) -> (B,1,N). Records no gradients.
inline Tensor inverse_norms(const Tensor& x, double eps) {
  if (!has_columns(x)) return at::norm(x, 2, {1}, /*keepdim=*/true).clamp_min_(eps).reciprocal_();
  const Tensor out = torch::empty({x.size(0), 1, x.size(2)}, x.options());
  for_columns(x, x.size(1), [&](auto zero, int64_t b, int64_t first, int64_t n) {
    using T = decltype(zero);
    run_kernel<ColumnInverseNorms>(machine_isa(), x.size(1), n, rows_of<const T>(x, b, first), static_cast<T>(eps),
                                   rows_of<T>(out, b, first)[0]);
  });
  return out;
}

/// The gradient to x of y = x scale, scale (B,1,N) being 1 / max(|x|, eps) of its columns, from that to y, to which
/// `offset` (B,C,1) is added where one is given. May overwrite `grad`.
inline Tensor column_unit_backward(const Tensor& x, const Tensor& scale, double eps, const Tensor& grad,
                                   const Tensor& offset = {}) {
  if (!has_columns(x) || !has_columns(grad)) {
    const Tensor g = offset.defined() ? grad + offset : grad;
    const Tensor along = (x * g).sum(1, /*keepdim=*/true).mul_(scale).mul_(scale).masked_fill_(scale * eps >= 1, 0);
    return at::addcmul(g, x, along, -1).mul_(scale);
  }
  const Tensor offsets = offset.defined() ? offset.contiguous() : offset;
  for_columns(x, 4 * x.size(1), [&](auto zero, int64_t b, int64_t first, int64_t n) {
    using T = decltype(zero);
    const T* const added = offsets.defined() ? offsets.data_ptr<T>() + b * x.size(1) : nullptr;
    run_kernel<ColumnUnitBackward>(machine_isa(), x.size(1), n, rows_of<const T>(x, b, first),
                                   rows_of<const T>(grad, b, first), rows_of<const T>(scale, b, first)[0],
                                   static_cast<T>(eps), added, rows_of<T>(grad, b, first));
  });
  return grad;
}

/// softmax(x / temperature) over the columns of x (B,K,N) -> (B,K,N).
inline Tensor column_softmax(const Tensor& x, double temperature) {
  if (!has_columns(x)) return at::softmax(x / temperature, 1);
  const Tensor out = torch::empty(x.sizes(), x.options());
  for_columns(x, 8 * x.size(1), [&](auto zero, int64_t b, int64_t first, int64_t n) {
    using T = decltype(zero);
    run_kernel<ColumnSoftmax>(machine_isa(), x.size(1), n, rows_of<const T>(x, b, first),
                              static_cast<T>(1 / temperature), rows_of<T>(out, b, first));
  });
  return out;
}

/// The gradient to x of a = `column_softmax(x, temperature)` from that to a.
inline Tensor column_softmax_backward(const Tensor& a, const Tensor& grad, double temperature) {
  if (!has_columns(a) || !has_columns(grad)) {
    return grad.sub((a * grad).sum(1, /*keepdim=*/true)).mul_(a).div_(temperature);
  }
  const Tensor out = torch::empty(a.sizes(), a.options());
  for_columns(a, 4 * a.size(1), [&](auto zero, int64_t b, int64_t first, int64_t n) {
    using T = decltype(zero);
    run_kernel<ColumnSoftmaxBackward>(machine_isa(), a.size(1), n, rows_of<const T>(a, b, first),
                                      rows_of<const T>(grad, b, first), static_cast<T>(1 / temperature),
                                      rows_of<T>(out, b, first));
  });
  return out;
}

struct CrossEntropy {
  Tensor losses;  // (B,1,N)
  Tensor grad;    // (B,K,N): weight (softmax(x) - one_hot(label))
};

/// Cross-entropy of the columns of softmax(x) against where those of `teacher` are greatest, (B,K,N) both, and the
/// gradient of `weight` times their sum.
inline CrossEntropy column_cross_entropy(const Tensor& x, const Tensor& teacher, double weight = 1) {
  if (!has_columns(x) || x.scalar_type() != teacher.scalar_type() || !has_contiguous_rows(teacher)) {
    const Tensor labels = teacher.argmax(1, /*keepdim=*/true), log_softmax = at::log_softmax(x, 1);
    const Tensor one = torch::full(labels.sizes(), -1, x.options());
    return {-log_softmax.gather(1, labels), log_softmax.exp().scatter_add_(1, labels, one).mul_(weight)};
  }
  const CrossEntropy result{torch::empty({x.size(0), 1, x.size(2)}, x.options()), torch::empty(x.sizes(), x.options())};
  for_columns(x, 8 * x.size(1), [&](auto zero, int64_t b, int64_t first, int64_t n) {
    using T = decltype(zero);
    run_kernel<ColumnCrossEntropy>(machine_isa(), x.size(1), n, rows_of<const T>(x, b, first),
                                   rows_of<const T>(teacher, b, first), static_cast<T>(weight),
                                   rows_of<T>(result.losses, b, first)[0], rows_of<T>(result.grad, b, first));
  });
  return result;
}

}  // namespace smooseg::detail
