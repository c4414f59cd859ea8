#pragma once

// Running kernels (see simd.hpp) over the tensors of a batch, in parallel.

#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "smooseg/detail/kernels/aligned_buffer.hpp"
#include "smooseg/detail/kernels/simd.hpp"
#include "smooseg/detail/parallel.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// Rows of a matrix in memory: element (i,j) is data[i * stride + j].
template <class T>
struct Rows {
  T* data;
  int64_t stride;

  SMOOSEG_INLINE Rows at(int64_t row, int64_t column) const { return {data + row * stride + column, stride}; }
  SMOOSEG_INLINE T* operator[](int64_t row) const { return data + row * stride; }
};

/// Whether the kernels can read a tensor: real numbers in the CPU's memory.
inline bool has_kernels(const Tensor& t) {
  return t.device().is_cpu() && (t.scalar_type() == torch::kFloat32 || t.scalar_type() == torch::kFloat64);
}

inline bool has_contiguous_rows(const Tensor& t) {
  return t.size(2) == 1 || t.stride(2) == 1;
}

/// A tensor whose elements are not set, on the CPU in large pages if it is large.
inline Tensor large_empty(at::IntArrayRef sizes, const torch::TensorOptions& options) {
  const Tensor result = torch::empty(sizes, options);
  if (result.device().is_cpu()) advise_large_pages(result.data_ptr(), result.nbytes());
  return result;
}

/// Calls f(batch entry, first column, number of columns) in parallel. How the work is cut does not depend on the number
/// of threads, nor do the results.
template <class F>
void for_each_task(int64_t batch, int64_t columns, int64_t task_columns, int64_t work_per_column, const F& f) {
  constexpr int64_t kWorthAThread = 1 << 16;
  const int64_t tasks = (columns + task_columns - 1) / task_columns;
  const int64_t work = std::max<int64_t>(1, work_per_column * std::min(columns, task_columns));
  const int64_t group = std::max<int64_t>(1, kWorthAThread / work);
  parallel_for((batch * tasks + group - 1) / group, [&](int64_t g) {
    for (int64_t i = g * group; i < std::min(batch * tasks, (g + 1) * group); ++i) {
      const int64_t first = i % tasks * task_columns;
      f(i / tasks, first, std::min(task_columns, columns - first));
    }
  });
}

/// Calls f with a number of the tensor's type.
template <class F>
void with_scalar(const Tensor& t, const F& f) {
  if (t.scalar_type() == torch::kFloat32) return f(float{});
  f(double{});
}

/// A map's entry of the batch, from one of its columns on. A map of one entry serves a whole batch.
template <class T>
Rows<T> rows_of(const Tensor& t, int64_t batch, int64_t column = 0) {
  return {t.data_ptr<std::remove_const_t<T>>() + (t.size(0) == 1 ? 0 : batch * t.stride(0)) + column, t.stride(1)};
}

/// Calls f(T{}, batch entry, first column, number of columns) on all threads for parts of the columns of x (B,R,N), whose
/// numbers are of type T.
template <class F>
void for_columns(const Tensor& x, int64_t work_per_column, const F& f) {
  constexpr int64_t kTaskColumns = 1024;
  with_scalar(x, [&](auto zero) {
    for_each_task(x.size(0), x.size(2), kTaskColumns, work_per_column,
                  [&](int64_t b, int64_t first, int64_t n) { f(zero, b, first, n); });
  });
}

/// x (B,C,N), with contiguous rows, times a factor for each of its rows, (B,C) contiguous. LibTorch's product would do, but its
/// threads then wait actively for milliseconds, in the way of the library's own.
inline Tensor scaled_rows(const Tensor& x, const Tensor& factors) {
  const Tensor out = large_empty(x.sizes(), x.options());
  for_columns(x, x.size(1), [&](auto zero, int64_t b, int64_t first, int64_t n) {
    using T = decltype(zero);
    const Rows<const T> from = rows_of<const T>(x, b, first);
    const Rows<T> to = rows_of<T>(out, b, first);
    for (int64_t r = 0; r < x.size(1); ++r) {
      const T factor = factors.data_ptr<T>()[b * x.size(1) + r];
      for (int64_t j = 0; j < n; ++j) to[r][j] = from[r][j] * factor;
    }
  });
  return out;
}

}  // namespace smooseg::detail
