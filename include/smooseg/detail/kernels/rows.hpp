#pragma once

// Running kernels (see simd.hpp) over the tensors of a batch, in parallel.

#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>

#include "smooseg/detail/kernels/simd.hpp"
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

/// Calls f(batch entry, first column, number of columns) in parallel. How the work is cut does not depend on the number
/// of threads, nor do the results.
template <class F>
void for_each_task(int64_t batch, int64_t columns, int64_t task_columns, int64_t work_per_column, const F& f) {
  constexpr int64_t kWorthAThread = 1 << 16;
  const int64_t tasks = (columns + task_columns - 1) / task_columns;
  const int64_t work = std::max<int64_t>(1, work_per_column * std::min(columns, task_columns));
  at::parallel_for(0, batch * tasks, std::max<int64_t>(1, kWorthAThread / work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
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

template <class T>
Rows<const T> rows_of(const Tensor& t, int64_t batch) {
  return {t.data_ptr<T>() + (t.size(0) == 1 ? 0 : batch * t.stride(0)), t.stride(1)};
}

}  // namespace smooseg::detail
