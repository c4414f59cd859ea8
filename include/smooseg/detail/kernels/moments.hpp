#pragma once

// The forward pass of factorised evaluation: what the sums over all pairs of patches follow from, image by image.

#include <ATen/Functions.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "smooseg/detail/kernels/aligned_buffer.hpp"
#include "smooseg/detail/kernels/columnwise.hpp"
#include "smooseg/detail/kernels/math.hpp"
#include "smooseg/detail/kernels/products.hpp"
#include "smooseg/detail/kernels/rows.hpp"
#include "smooseg/detail/kernels/simd.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// Of unit vectors x (B,C,N) and a (B,K,N).
struct PatchMoments {
  Tensor product;           // (B,K+1,C): G = sum_p a_p x_p^T, and below it f = sum_p x_p
  Tensor labels;            // (B,K,1): s = sum_p a_p
  Tensor x_scale, a_scale;  // (B,1,N): what made the vectors unit vectors
};

/// The moments of up to 1024 patches in one pass over their features, while these are in cache.
struct MomentsKernel {
  static constexpr int64_t kTaskColumns = 1024;

  /// @param scratch (K+1,n). @param product (K+1,C). @param labels (K).
  template <Isa isa, class T>
  SMOOSEG_INLINE static void run(int64_t channels, int64_t classes, int64_t n, Rows<const T> x, Rows<const T> a,
                                 double x_eps, double a_eps, T* x_scale, T* a_scale, Rows<T> scratch, Rows<T> product,
                                 T* labels) {
    inverse_norms<isa>(channels, n, x, x_eps, x_scale);
    inverse_norms<isa>(classes, n, a, a_eps, a_scale);
    // The normalisation goes to the small side, and 1/|x| as one more row of it gives the sum of x.
    for (int64_t k = 0; k < classes; ++k) labels[k] = scaled_row<isa>(n, a[k], x_scale, a_scale, scratch[k]);
    std::copy(x_scale, x_scale + n, scratch[classes]);
    const T* const no_scale = nullptr;
    run_kernel<DotProduct, isa>(classes + 1, n, channels, Rows<const T>{scratch.data, scratch.stride}, x, no_scale,
                                product, false);
  }

 private:
  template <Isa isa, class T>
  SMOOSEG_INLINE static void inverse_norms(int64_t rows, int64_t n, Rows<const T> x, double eps, T* out) {
    if (eps < 0) {
      std::fill(out, out + n, T{1});
      return;
    }
    ColumnInverseNorms::run<isa>(rows, n, x, static_cast<T>(eps), out);
  }

  /// out = a a_scale x_scale. @return the sum of a a_scale.
  template <Isa isa, class T>
  SMOOSEG_INLINE static T scaled_row(int64_t n, const T* a, const T* x_scale, const T* a_scale, T* out) {
    constexpr int kVector = kLanes<T, isa>;
    Wide<T, kVector> sums = {}, unit = {}, factor = {};
    int64_t j = 0;
    for (; j + kVector <= n; j += kVector) {
      load(unit, a + j);
      load(factor, a_scale + j);
      unit *= factor;
      sums += unit;
      load(factor, x_scale + j);
      store(out + j, unit * factor);
    }
    T sum = sum_of_lanes<T, kVector>(sums);
    for (; j < n; ++j) {
      sum += a[j] * a_scale[j];
      out[j] = a[j] * a_scale[j] * x_scale[j];
    }
    return sum;
  }
};

/// @param x (B,C,N). @param a (B,K,N), of x's dtype. @param x_eps, a_eps lower bounds of the norms; where negative, the
///   vectors are taken as they are.
inline PatchMoments patch_moments(const Tensor& x, const Tensor& a, double x_eps, double a_eps) {
  const int64_t batch = x.size(0), channels = x.size(1), patches = x.size(2), classes = a.size(1);
  if (!has_kernels(x) || !has_contiguous_rows(x) || !has_contiguous_rows(a)) {
    const auto scale = [](const Tensor& t, double eps) {
      return eps < 0 ? torch::ones({t.size(0), 1, t.size(2)}, t.options()) : inverse_norms(t, eps);
    };
    const Tensor x_scale = scale(x, x_eps), a_scale = scale(a, a_eps);
    const Tensor left = at::cat({a * (a_scale * x_scale), x_scale}, 1);
    const Tensor labels = batched_product(a, a_scale.transpose(1, 2));
    return {batched_product(left, x.transpose(1, 2)), labels, x_scale, a_scale};
  }
  const int64_t tasks = (patches + MomentsKernel::kTaskColumns - 1) / MomentsKernel::kTaskColumns;
  const Tensor product = torch::empty({batch, tasks, classes + 1, channels}, x.options());
  const Tensor labels = torch::empty({batch, tasks, classes, 1}, x.options());
  PatchMoments result{
      {}, {}, torch::empty({batch, 1, patches}, x.options()), torch::empty({batch, 1, patches}, x.options())};
  with_scalar(x, [&](auto zero) {
    using T = decltype(zero);
    T *const x_scale = result.x_scale.data_ptr<T>(), *const a_scale = result.a_scale.data_ptr<T>();
    T *const products = product.data_ptr<T>(), *const sums = labels.data_ptr<T>();
    for_each_task(batch, patches, MomentsKernel::kTaskColumns, channels * (classes + 2),
                  [&](int64_t b, int64_t first, int64_t n) {
                    const int64_t task = b * tasks + first / MomentsKernel::kTaskColumns, at = b * patches + first;
                    const int64_t stride = (n + 15) / 16 * 16;  // rows that begin with a cache line
                    AlignedBuffer<T> scratch(static_cast<std::size_t>((classes + 1) * stride));
                    run_kernel<MomentsKernel>(machine_isa(), channels, classes, n, rows_of<const T>(x, b, first),
                                              rows_of<const T>(a, b, first), x_eps, a_eps, x_scale + at, a_scale + at,
                                              Rows<T>{scratch.data(), stride},
                                              Rows<T>{products + task * (classes + 1) * channels, channels},
                                              sums + task * classes);
                  });
  });
  const auto joined = [&](const Tensor& t) {  // (B,tasks,M,N) -> (B,M,N)
    if (tasks == 1) return t.squeeze(1);
    const Tensor ones = torch::ones({1, 1, tasks}, t.options());
    return batched_product(ones, t.flatten(2)).view({batch, t.size(2), t.size(3)});
  };
  result.product = joined(product);
  result.labels = joined(labels);
  return result;
}

/// The moments of all patches from those of parts of them, in order.
inline PatchMoments joined(const std::vector<PatchMoments>& parts) {
  PatchMoments result = parts.front();
  if (parts.size() == 1) return result;
  std::vector<Tensor> x_scales, a_scales;
  for (const PatchMoments& part : parts) {
    if (&part != &parts.front()) {
      const Tensor one = torch::ones({1, 1, 1}, part.product.options());
      batched_product(one, part.product.view({1, 1, -1}), {}, result.product.view({1, 1, -1}));  // added
      result.labels += part.labels;
    }
    x_scales.push_back(part.x_scale);
    a_scales.push_back(part.a_scale);
  }
  result.x_scale = at::cat(x_scales, 2);
  result.a_scale = at::cat(a_scales, 2);
  return result;
}

}  // namespace smooseg::detail
