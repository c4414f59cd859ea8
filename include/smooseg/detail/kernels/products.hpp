#pragma once

// The batched products that the losses and the predictor consist of, of which one side is short (classes, prototypes).
// BLAS, made for large matrices, takes two to four times as long (benchmarks/bench_products.cpp).

#include <ATen/Functions.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>

#include "smooseg/detail/kernels/math.hpp"
#include "smooseg/detail/kernels/rows.hpp"
#include "smooseg/detail/kernels/simd.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

// A tile of the result stays in registers: kTileRows rows of `tile_vectors` vectors (or, of dot products, columns).
constexpr int64_t kTileRows = 4;
constexpr int64_t tile_vectors(Isa isa) {
  return isa == Isa::kAvx512 ? 6 : 3;
}

/// out (M,N) = left (M,R) right (R,N), each column n times scale[n] unless `scale` is null; added to what `out` holds if
/// `add`, without a scale.
struct RowProduct {
  /// Columns that a task takes: whole tiles.
  static constexpr int64_t kTaskColumns = 384;

  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t m, int64_t reduced, int64_t n, Rows<const T> left, Rows<const T> right,
                                 const T* scale, Rows<T> out, bool add) {
    constexpr int64_t kVector = kLanes<T, isa>;
    using W = Wide<T, kVector>;
    int64_t j = panels<W, tile_vectors(isa)>(0, m, reduced, n, left, right, scale, out, add);
    if (j < n && n >= kVector && !add) {  // the last vector, with columns that are there already
      return panel<W, 1>(m, reduced, n - kVector, left, right, scale, out, false);
    }
    for (; j < n; ++j) panel<T, 1>(m, reduced, j, left, right, scale, out, add);
  }

 private:
  /// All columns from j on that whole vectors hold, many vectors at a time as long as there are as many; the first
  /// column that is left.
  template <class W, int64_t vectors, class T>
  SMOOSEG_INLINE static int64_t panels(int64_t j, int64_t m, int64_t reduced, int64_t n, Rows<const T> left,
                                       Rows<const T> right, const T* scale, Rows<T> out, bool add) {
    constexpr int64_t kColumns = vectors * static_cast<int64_t>(sizeof(W) / sizeof(T));
    for (; j + kColumns <= n; j += kColumns) panel<W, vectors>(m, reduced, j, left, right, scale, out, add);
    if constexpr (vectors == 1) {
      return j;
    } else {
      return panels<W, vectors * 2 / 3>(j, m, reduced, n, left, right, scale, out, add);
    }
  }

  /// Columns j and on, `vectors` of them; in blocks of the reduced dimension that stay in cache.
  template <class W, int64_t vectors, class T>
  SMOOSEG_INLINE static void panel(int64_t m_count, int64_t reduced, int64_t j, Rows<const T> left, Rows<const T> right,
                                   const T* scale, Rows<T> out, bool add) {
    constexpr int64_t kBlock = 64, kVector = sizeof(W) / sizeof(T);
    for (int64_t r = 0; r < reduced; r += kBlock) {
      const int64_t block = std::min(kBlock, reduced - r);
      int64_t m = 0;
      for (; m + kTileRows <= m_count; m += kTileRows) {
        tile<W, vectors, kTileRows>(block, left.at(m, r), right.at(r, j), out.at(m, j), add || r > 0, m == 0);
      }
      for (; m < m_count; ++m) {
        tile<W, vectors, 1>(block, left.at(m, r), right.at(r, j), out.at(m, j), add || r > 0, m == 0);
      }
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
    Array<Array<W, vectors>, rows> sums = {};
    if (add) {
      SMOOSEG_UNROLL
      for (int64_t m = 0; m < rows; ++m) {
        SMOOSEG_UNROLL
        for (int64_t v = 0; v < vectors; ++v) load(sums[m][v], out[m] + v * kVector);
      }
    }
    for (int64_t r = 0; r < reduced; ++r) {
      Array<W, vectors> x;
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

/// out (M,N) = left (M,R) right^T, right being (N,R), each column n times scale[n] unless `scale` is null; added to what
/// `out` holds if `add`, without a scale.
struct DotProduct {
  static constexpr int64_t kTaskColumns = 96;
  /// Numbers of the reduced side in a block that stays in cache.
  static constexpr int64_t kBlock = 1024;

  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t m, int64_t reduced, int64_t n, Rows<const T> left, Rows<const T> right,
                                 const T* scale, Rows<T> out, bool add) {
    for (int64_t r = 0; r < reduced; r += kBlock) {
      add_block<isa>(m, r, std::min(reduced, r + kBlock), n, left, right, out, add || r > 0);
    }
    if (scale == nullptr) return;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) out[i][j] *= scale[j];
    }
  }

 private:
  /// The part from begin to end of the reduced side, added to `out` or put there.
  template <Isa isa, class T>
  SMOOSEG_INLINE static void add_block(int64_t m, int64_t begin, int64_t end, int64_t n, Rows<const T> left,
                                       Rows<const T> right, Rows<T> out, bool add) {
    constexpr int64_t kTile = tile_vectors(isa);
    using W = Wide<T, kLanes<T, isa>>;
    int64_t j = 0;
    for (; j + kTile <= n; j += kTile) panel<W, kTile>(m, begin, end, j, left, right, out, add);
    for (; j < n; ++j) panel<W, 1>(m, begin, end, j, left, right, out, add);
  }

  template <class W, int64_t columns, class T>
  SMOOSEG_INLINE static void panel(int64_t m_count, int64_t begin, int64_t end, int64_t j, Rows<const T> left,
                                   Rows<const T> right, Rows<T> out, bool add) {
    int64_t m = 0;
    for (; m + kTileRows <= m_count; m += kTileRows) {
      tile<W, kTileRows, columns>(begin, end, left.at(m, 0), right.at(j, 0), out.at(m, j), add);
    }
    for (; m < m_count; ++m) tile<W, 1, columns>(begin, end, left.at(m, 0), right.at(j, 0), out.at(m, j), add);
  }

  template <class W, int64_t rows, int64_t columns, class T>
  SMOOSEG_INLINE static void tile(int64_t begin, int64_t end, Rows<const T> left, Rows<const T> right, Rows<T> out,
                                  bool add_to_out) {
    constexpr int64_t kVector = sizeof(W) / sizeof(T);
    Array<Array<W, columns>, rows> sums = {};
    const auto add = [&](int64_t r, const W* mask) SMOOSEG_INLINE_LAMBDA {
      Array<W, columns> x;
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
      W mask = {};
      for (int64_t l = 0; l < kVector; ++l) mask[l] = l >= kVector - (end - r) ? T{1} : T{0};
      add(end - kVector, &mask);
      r = end;
    }
    Array<Array<W, columns>, rows> stored;  // the loop over it is not unrolled, which would be most of the code
    SMOOSEG_UNROLL
    for (int64_t m = 0; m < rows; ++m) {
      SMOOSEG_UNROLL
      for (int64_t c = 0; c < columns; ++c) stored[m][c] = sums[m][c];
    }
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t c = 0; c < columns; ++c) {
        T sum = sum_of_lanes<T, static_cast<int>(kVector)>(stored[m][c]);
        for (int64_t k = r; k < end; ++k) sum += left[m][k] * right[c][k];
        out[m][c] = add_to_out ? out[m][c] + sum : sum;
      }
    }
  }
};

/// left (B,M,R), or (1,M,R) for all of the batch, times right (B,R,N); column n of the result times scale (B,1,N),
/// where one is given. Either the rows of `right` are contiguous or its columns are; else it is copied.
/// Records no gradients.
/// @param sum where it is given, (B,M,N) with contiguous rows, to which the product is added (then without a scale), or
///   which gets the product if not `add`. It is returned.
/// @return (B,M,N), contiguous unless it is `sum`.
inline Tensor batched_product(Tensor left, Tensor right, const Tensor& scale = {}, Tensor sum = {}, bool add = true) {
  if (!has_kernels(left) || !has_kernels(right)) {
    const Tensor product = at::matmul(left, right), scaled = scale.defined() ? product * scale : product;
    return !sum.defined() ? scaled : add ? sum.add_(scaled) : sum.copy_(scaled);
  }
  const bool columns_contiguous = right.stride(1) == 1 && (right.size(2) == 1 || right.stride(2) != 1);
  if (!has_contiguous_rows(left)) left = left.contiguous();
  if (!has_contiguous_rows(right) && !columns_contiguous) right = right.contiguous();
  if (columns_contiguous) right = right.transpose(1, 2);
  const int64_t batch = right.size(0), m = left.size(1), reduced = left.size(2);
  const int64_t n = right.size(columns_contiguous ? 1 : 2);
  const Tensor factors = scale.defined() ? scale.contiguous() : scale;
  const Tensor out = sum.defined() ? sum : torch::empty({batch, m, n}, right.options());
  with_scalar(right, [&](auto zero) {
    using T = decltype(zero);
    const T* const factor = factors.defined() ? factors.data_ptr<T>() : nullptr;
    const auto run = [&](auto kernel) {
      using Kernel = decltype(kernel);
      for_each_task(batch, n, Kernel::kTaskColumns, m * reduced, [&](int64_t b, int64_t first, int64_t count) {
        const Rows<const T> x = rows_of<const T>(right, b);
        run_kernel<Kernel>(machine_isa(), m, reduced, count, rows_of<const T>(left, b),
                           columns_contiguous ? x.at(first, 0) : x.at(0, first),
                           factor == nullptr ? factor : factor + b * n + first, rows_of<T>(out, b, first),
                           sum.defined() && add);
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

/// The sum over dimension 0 of t (B,M,N): (M,N). Unlike LibTorch's, on the library's threads.
inline Tensor sum_of_batch(const Tensor& t) {
  const Tensor ones = torch::ones({1, 1, t.size(0)}, t.options());
  return batched_product(ones, t.reshape({1, t.size(0), -1})).view({t.size(1), t.size(2)});
}

}  // namespace smooseg::detail
