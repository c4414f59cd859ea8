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

/// Where `value` is greater than `greatest`, puts it there, and `mark` into `marked`.
template <class T, int lanes>
SMOOSEG_INLINE void keep_greater(Wide<T, lanes>& greatest, Wide<T, lanes>& marked, const Wide<T, lanes>& value,
                                 const Wide<T, lanes>& mark) {
#if defined(__GNUC__)
  const auto greater = value > greatest;
  greatest = greater ? value : greatest;
  marked = greater ? mark : marked;
#else
  for (int i = 0; i < lanes; ++i) {
    if (!(value[i] > greatest[i])) continue;
    greatest[i] = value[i];
    marked[i] = mark[i];
  }
#endif
}

/// out[n] = sum_c x[c][n] y[c][n].
struct ColumnDots {
  static constexpr int64_t kTaskColumns = 1024;

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
    W sums[vectors] = {};
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

/// out = exp(scale x) over its sum, column by column.
struct ColumnSoftmax {
  static constexpr int64_t kTaskColumns = 1024;

  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t rows, int64_t n, Rows<const T> x, T scale, Rows<T> out) {
    constexpr int64_t kVector = kLanes<T, isa>;
    int64_t j = 0;
    for (; j + kVector <= n; j += kVector) strip<kVector>(rows, j, x, scale, out);
    for (; j < n; ++j) strip<1>(rows, j, x, scale, out);
  }

 private:
  template <int64_t vector, class T>
  SMOOSEG_INLINE static void strip(int64_t rows, int64_t j, Rows<const T> x, T scale, Rows<T> out) {
    constexpr int lanes = vector;
    using W = Wide<T, lanes>;
    W greatest, value = {}, sum = {};
    load(greatest, x[0] + j);
    for (int64_t k = 1; k < rows; ++k) {
      load(value, x[k] + j);
      raise<T, lanes>(greatest, value);
    }
    for (int64_t k = 0; k < rows; ++k) {
      load(value, x[k] + j);
      value = (value - greatest) * scale;
      exponential<lanes>(value);
      sum += value;
      store(out[k] + j, value);
    }
    const W factor = (W{} + T{1}) / sum;
    for (int64_t k = 0; k < rows; ++k) {
      load(value, out[k] + j);
      store(out[k] + j, value * factor);
    }
  }
};

/// Cross-entropy of softmax(x) against the greatest row of `teacher` (of equal ones the first), column by column, and
/// its gradient to x.
struct ColumnCrossEntropy {
  static constexpr int64_t kTaskColumns = 1024;

  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t rows, int64_t n, Rows<const T> x, Rows<const T> teacher, T* losses,
                                 Rows<T> grad) {
    constexpr int64_t kVector = kLanes<T, isa>;
    int64_t j = 0;
    for (; j + kVector <= n; j += kVector) strip<kVector>(rows, j, x, teacher, losses, grad);
    for (; j < n; ++j) strip<1>(rows, j, x, teacher, losses, grad);
  }

 private:
  template <int64_t vector, class T>
  SMOOSEG_INLINE static void strip(int64_t rows, int64_t j, Rows<const T> x, Rows<const T> teacher, T* losses,
                                   Rows<T> grad) {
    constexpr int lanes = vector;
    using W = Wide<T, lanes>;
    W greatest, of_teacher, value = {}, row = {}, label = {}, sum = {};
    load(greatest, x[0] + j);
    load(of_teacher, teacher[0] + j);
    for (int64_t k = 1; k < rows; ++k) {
      load(value, x[k] + j);
      raise<T, lanes>(greatest, value);
      load(value, teacher[k] + j);
      row += T{1};
      keep_greater<T, lanes>(of_teacher, label, value, row);
    }
    for (int64_t k = 0; k < rows; ++k) {
      load(value, x[k] + j);
      value = value - greatest;
      exponential<lanes>(value);
      sum += value;
      store(grad[k] + j, value);
    }
    const W factor = (W{} + T{1}) / sum;
    for (int64_t k = 0; k < rows; ++k) {
      load(value, grad[k] + j);
      store(grad[k] + j, value * factor);
    }
    for (int l = 0; l < lanes; ++l) {
      const auto k = static_cast<int64_t>(label[l]);
      losses[j + l] = greatest[l] + std::log(sum[l]) - x[k][j + l];
      grad[k][j + l] -= T{1};
    }
  }
};

/// Inner products of the columns of x and y, (B,C,N) each -> (B,1,N).
inline Tensor column_dots(const Tensor& x, const Tensor& y) {
  if (!has_kernels(x) || !has_kernels(y) || !has_contiguous_rows(x) || !has_contiguous_rows(y)) {
    return (x * y).sum(1, /*keepdim=*/true);
  }
  Tensor out = torch::empty({x.size(0), 1, x.size(2)}, x.options());
  with_scalar(x, [&](auto zero) {
    using T = decltype(zero);
    T* const to = out.data_ptr<T>();
    for_each_task(x.size(0), x.size(2), ColumnDots::kTaskColumns, x.size(1), [&](int64_t b, int64_t first, int64_t n) {
      run_kernel<ColumnDots>(machine_isa(), x.size(1), n, rows_of<T>(x, b).at(0, first), rows_of<T>(y, b).at(0, first),
                             to + b * x.size(2) + first);
    });
  });
  return out;
}

/// softmax(x / temperature) over the columns of x (B,K,N) -> (B,K,N).
inline Tensor column_softmax(const Tensor& x, double temperature) {
  if (!has_kernels(x) || !has_contiguous_rows(x)) return at::softmax(x / temperature, 1);
  Tensor out = torch::empty(x.sizes(), x.options());
  with_scalar(x, [&](auto zero) {
    using T = decltype(zero);
    T* const to = out.data_ptr<T>();
    for_each_task(x.size(0), x.size(2), ColumnSoftmax::kTaskColumns, 8 * x.size(1),
                  [&](int64_t b, int64_t first, int64_t n) {
                    run_kernel<ColumnSoftmax>(machine_isa(), x.size(1), n, rows_of<T>(x, b).at(0, first),
                                              static_cast<T>(1 / temperature),
                                              Rows<T>{to + b * out.stride(0) + first, out.stride(1)});
                  });
  });
  return out;
}

struct CrossEntropy {
  Tensor losses;  // (B,1,N)
  Tensor grad;    // (B,K,N): softmax(x) - one_hot(label)
};

/// Cross-entropy of the columns of softmax(x) against where those of `teacher` are greatest, (B,K,N) both.
inline CrossEntropy column_cross_entropy(const Tensor& x, const Tensor& teacher) {
  if (!has_kernels(x) || x.scalar_type() != teacher.scalar_type() || !has_contiguous_rows(x) ||
      !has_contiguous_rows(teacher)) {
    const Tensor labels = teacher.argmax(1, /*keepdim=*/true), log_softmax = at::log_softmax(x, 1);
    const Tensor one = torch::full(labels.sizes(), -1, x.options());
    return {-log_softmax.gather(1, labels), log_softmax.exp().scatter_add_(1, labels, one)};
  }
  CrossEntropy result{torch::empty({x.size(0), 1, x.size(2)}, x.options()), torch::empty(x.sizes(), x.options())};
  with_scalar(x, [&](auto zero) {
    using T = decltype(zero);
    T *const losses = result.losses.data_ptr<T>(), *const grad = result.grad.data_ptr<T>();
    for_each_task(x.size(0), x.size(2), ColumnCrossEntropy::kTaskColumns, 8 * x.size(1),
                  [&](int64_t b, int64_t first, int64_t n) {
                    run_kernel<ColumnCrossEntropy>(
                        machine_isa(), x.size(1), n, rows_of<T>(x, b).at(0, first), rows_of<T>(teacher, b).at(0, first),
                        losses + b * x.size(2) + first,
                        Rows<T>{grad + b * result.grad.stride(0) + first, result.grad.stride(1)});
                  });
  });
  return result;
}

}  // namespace smooseg::detail
