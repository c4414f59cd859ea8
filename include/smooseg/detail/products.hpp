#pragma once

// The batched products and the reduction that the losses and the predictor consist of. In the products one side is
// short (classes, prototypes): BLAS, made for large matrices, takes two to four times as long
// (benchmarks/bench_products.cpp). None of these functions records gradients.

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>

#include "smooseg/detail/simd.hpp"
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

// A tile of the result stays in registers: kTileRows rows of `tile_vectors` vectors (or, of dot products, columns).
constexpr int64_t kTileRows = 4;
constexpr int64_t tile_vectors(Isa isa) {
  return isa == Isa::kAvx512 ? 6 : 3;
}

/// out (M,N) = left (M,R) right (R,N), each column n times scale[n] unless `scale` is null.
struct RowProduct {
  /// Columns that a task takes: whole tiles.
  static constexpr int64_t kTaskColumns = 384;

  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t m, int64_t reduced, int64_t n, Rows<const T> left, Rows<const T> right,
                                 const T* scale, Rows<T> out) {
    constexpr int64_t kVector = kLanes<T, isa>, kTile = tile_vectors(isa) * kVector;
    using W = Wide<T, kVector>;
    int64_t j = 0;
    for (; j + kTile <= n; j += kTile) panel<W, tile_vectors(isa)>(m, reduced, j, left, right, scale, out);
    for (; j + kVector <= n; j += kVector) panel<W, 1>(m, reduced, j, left, right, scale, out);
    if (j < n && n >= kVector) return panel<W, 1>(m, reduced, n - kVector, left, right, scale, out);  // some anew
    for (; j < n; ++j) panel<T, 1>(m, reduced, j, left, right, scale, out);
  }

 private:
  /// Columns j and on, `vectors` of them; in blocks of the reduced dimension that stay in cache.
  template <class W, int64_t vectors, class T>
  SMOOSEG_INLINE static void panel(int64_t m_count, int64_t reduced, int64_t j, Rows<const T> left, Rows<const T> right,
                                   const T* scale, Rows<T> out) {
    constexpr int64_t kBlock = 64, kVector = sizeof(W) / sizeof(T);
    for (int64_t r = 0; r < reduced; r += kBlock) {
      const int64_t block = std::min(kBlock, reduced - r);
      int64_t m = 0;
      for (; m + kTileRows <= m_count; m += kTileRows) {
        tile<W, vectors, kTileRows>(block, left.at(m, r), right.at(r, j), out.at(m, j), r > 0, m == 0);
      }
      for (; m < m_count; ++m) tile<W, vectors, 1>(block, left.at(m, r), right.at(r, j), out.at(m, j), r > 0, m == 0);
    }
    if (scale == nullptr) return;
    for (int64_t m = 0; m < m_count; ++m) {
      for (int64_t k = j; k < j + vectors * kVector; k += kVector) {
        W value, factor;
        load(value, out[m] + k);
        load(factor, scale + k);
        store(out[m] + k, value * factor);
      }
    }
  }

  template <class W, int64_t vectors, int64_t rows, class T>
  SMOOSEG_INLINE static void tile(int64_t reduced, Rows<const T> left, Rows<const T> right, Rows<T> out, bool add,
                                  bool fetch) {
    constexpr int64_t kVector = sizeof(W) / sizeof(T), kAhead = 32;
    W sums[rows][vectors] = {};
    if (add) {
      SMOOSEG_UNROLL
      for (int64_t m = 0; m < rows; ++m) {
        SMOOSEG_UNROLL
        for (int64_t v = 0; v < vectors; ++v) load(sums[m][v], out[m] + v * kVector);
      }
    }
    for (int64_t r = 0; r < reduced; ++r) {
      W x[vectors];
      SMOOSEG_UNROLL
      for (int64_t v = 0; v < vectors; ++v) load(x[v], right[r] + v * kVector);
      if (fetch) {
        SMOOSEG_UNROLL
        for (int64_t v = 0; v < vectors; ++v) prefetch(right[r + kAhead] + v * kVector);
      }
      SMOOSEG_UNROLL
      for (int64_t m = 0; m < rows; ++m) {
        const T factor = left[m][r];
        SMOOSEG_UNROLL
        for (int64_t v = 0; v < vectors; ++v) sums[m][v] += x[v] * factor;
      }
    }
    SMOOSEG_UNROLL
    for (int64_t m = 0; m < rows; ++m) {
      SMOOSEG_UNROLL
      for (int64_t v = 0; v < vectors; ++v) store(out[m] + v * kVector, sums[m][v]);
    }
  }
};

/// out (M,N) = left (M,R) right^T, right being (N,R), each column n times scale[n] unless `scale` is null.
struct DotProduct {
  static constexpr int64_t kTaskColumns = 96;

  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t m, int64_t reduced, int64_t n, Rows<const T> left, Rows<const T> right,
                                 const T* scale, Rows<T> out) {
    constexpr int64_t kTile = tile_vectors(isa), kBlock = 1024;
    using W = Wide<T, kLanes<T, isa>>;
    for (int64_t r = 0; r < reduced; r += kBlock) {
      const int64_t end = std::min(reduced, r + kBlock);
      int64_t j = 0;
      for (; j + kTile <= n; j += kTile) panel<W, kTile>(m, r, end, j, left, right, out);
      for (; j < n; ++j) panel<W, 1>(m, r, end, j, left, right, out);
    }
    if (scale == nullptr) return;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) out[i][j] *= scale[j];
    }
  }

 private:
  template <class W, int64_t columns, class T>
  SMOOSEG_INLINE static void panel(int64_t m_count, int64_t begin, int64_t end, int64_t j, Rows<const T> left,
                                   Rows<const T> right, Rows<T> out) {
    int64_t m = 0;
    for (; m + kTileRows <= m_count; m += kTileRows) {
      tile<W, kTileRows, columns>(begin, end, left.at(m, 0), right.at(j, 0), out.at(m, j));
    }
    for (; m < m_count; ++m) tile<W, 1, columns>(begin, end, left.at(m, 0), right.at(j, 0), out.at(m, j));
  }

  /// Adds the part from begin to end of the reduced dimension, or starts with it where begin is 0.
  template <class W, int64_t rows, int64_t columns, class T>
  SMOOSEG_INLINE static void tile(int64_t begin, int64_t end, Rows<const T> left, Rows<const T> right, Rows<T> out) {
    constexpr int64_t kVector = sizeof(W) / sizeof(T);
    W sums[rows][columns] = {};
    const auto add = [&](int64_t r, const W* mask) SMOOSEG_INLINE_LAMBDA {
      W x[columns];
      SMOOSEG_UNROLL
      for (int64_t c = 0; c < columns; ++c) load(x[c], right[c] + r);
      SMOOSEG_UNROLL
      for (int64_t m = 0; m < rows; ++m) {
        W factor;
        load(factor, left[m] + r);
        if (mask != nullptr) factor *= *mask;
        SMOOSEG_UNROLL
        for (int64_t c = 0; c < columns; ++c) sums[m][c] += x[c] * factor;
      }
    };
    int64_t r = begin;
    for (; r + kVector <= end; r += kVector) add(r, nullptr);
    if (r < end && end >= kVector) {  // the last few, with those before them masked
      W mask;
      for (int64_t l = 0; l < kVector; ++l) mask[l] = l >= kVector - (end - r) ? T{1} : T{0};
      add(end - kVector, &mask);
      r = end;
    }
    SMOOSEG_UNROLL
    for (int64_t m = 0; m < rows; ++m) {
      SMOOSEG_UNROLL
      for (int64_t c = 0; c < columns; ++c) {
        T sum = lane_sum<T, static_cast<int>(kVector)>(sums[m][c]);
        for (int64_t k = r; k < end; ++k) sum += left[m][k] * right[c][k];
        out[m][c] = begin > 0 ? out[m][c] + sum : sum;
      }
    }
  }
};

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

/// labels[n] = the first row of x in which column n is greatest.
struct ColumnArgMax {
  static constexpr int64_t kTaskColumns = 1024;

  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t rows, int64_t n, Rows<const T> x, int64_t* labels) {
    constexpr int64_t kVector = kLanes<T, isa>;
    using W = Wide<T, kVector>;
    int64_t j = 0;
    for (; j + kVector <= n; j += kVector) {
      W greatest, row = {}, label = {};
      load(greatest, x[0] + j);
      for (int64_t k = 1; k < rows; ++k) {
        W value;
        load(value, x[k] + j);
        row += T{1};
        keep_greater(greatest, label, value, row);
      }
      for (int64_t l = 0; l < kVector; ++l) labels[j + l] = static_cast<int64_t>(label[l]);
    }
    for (; j < n; ++j) {
      labels[j] = 0;
      for (int64_t k = 1; k < rows; ++k) {
        if (x[k][j] > x[labels[j]][j]) labels[j] = k;
      }
    }
  }
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

/// left (B,M,R), or (1,M,R) for all of the batch, times right (B,R,N); column n of the result times scale (B,1,N),
/// where one is given. Either the rows of `right` are contiguous or its columns are; else it is copied.
/// @return (B,M,N), contiguous.
inline Tensor batched_product(Tensor left, Tensor right, const Tensor& scale = {}) {
  if (!has_kernels(left) || !has_kernels(right)) {
    const Tensor product = at::matmul(left, right);
    return scale.defined() ? product * scale : product;
  }
  const bool columns_contiguous = !has_contiguous_rows(right) && right.stride(1) == 1;
  if (!has_contiguous_rows(left)) left = left.contiguous();
  if (!has_contiguous_rows(right) && !columns_contiguous) right = right.contiguous();
  if (columns_contiguous) right = right.transpose(1, 2);
  const int64_t batch = right.size(0), m = left.size(1), reduced = left.size(2);
  const int64_t n = right.size(columns_contiguous ? 1 : 2);
  const Tensor factors = scale.defined() ? scale.contiguous() : scale;
  Tensor out = torch::empty({batch, m, n}, right.options());
  with_scalar(right, [&](auto zero) {
    using T = decltype(zero);
    T* const to = out.data_ptr<T>();
    const T* const factor = factors.defined() ? factors.data_ptr<T>() : nullptr;
    const auto run = [&](auto kernel) {
      using Kernel = decltype(kernel);
      for_each_task(batch, n, Kernel::kTaskColumns, m * reduced, [&](int64_t b, int64_t first, int64_t count) {
        const Rows<const T> x = rows_of<T>(right, b);
        run_kernel<Kernel>(machine_isa(), m, reduced, count, rows_of<T>(left, b),
                           columns_contiguous ? x.at(first, 0) : x.at(0, first),
                           factor == nullptr ? factor : factor + b * n + first, Rows<T>{to + b * m * n + first, n});
      });
    };
    if (columns_contiguous) {
      run(DotProduct{});
    } else {
      run(RowProduct{});
    }
  });
  return out;
}

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

/// The first row in which each column is greatest: x (B,K,N) -> (B,1,N) int64.
inline Tensor column_argmax(const Tensor& x) {
  if (!has_kernels(x) || !has_contiguous_rows(x)) return x.argmax(1, /*keepdim=*/true);
  Tensor out = torch::empty({x.size(0), 1, x.size(2)}, x.options().dtype(torch::kInt64));
  with_scalar(x, [&](auto zero) {
    using T = decltype(zero);
    int64_t* const to = out.data_ptr<int64_t>();
    for_each_task(x.size(0), x.size(2), ColumnArgMax::kTaskColumns, x.size(1),
                  [&](int64_t b, int64_t first, int64_t n) {
                    run_kernel<ColumnArgMax>(machine_isa(), x.size(1), n, rows_of<T>(x, b).at(0, first),
                                             to + b * x.size(2) + first);
                  });
  });
  return out;
}

}  // namespace smooseg::detail
