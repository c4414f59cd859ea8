#pragma once

// The projector on the CPU: its products on few columns at a time, so that what lies between them stays in cache.

#include <ATen/Functions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "smooseg/detail/autograd/unit_vectors.hpp"
#include "smooseg/detail/kernels/aligned_buffer.hpp"
#include "smooseg/detail/kernels/products.hpp"
#include "smooseg/detail/kernels/rows.hpp"
#include "smooseg/detail/kernels/silu.hpp"
#include "smooseg/detail/kernels/simd.hpp"
#include "smooseg/detail/parallel.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// Factors for each image's channels before each branch, (B,C); both undefined where all are 1.
struct ChannelMasks {
  Tensor linear, hidden;
};

/// z = linear(x) + out(silu(hidden(x))). The masks' factors go to the matrices: the features are read, never copied, and
/// get no gradient.
struct ProjectorFunction : torch::autograd::Function<ProjectorFunction> {
  using Context = torch::autograd::AutogradContext;

  /// @param x (B,C,N), contiguous, of a dtype that has kernels, as all parameters are.
  /// @param linear, out (D,C). @param hidden (C,C). @param linear_bias, out_bias (D). @param hidden_bias (C).
  /// @param keeps whether a backward pass may follow.
  /// @return z, (B,D,N).
  static Tensor forward(Context* context, const Tensor& x, const ChannelMasks& masks, const Tensor& linear,
                        const Tensor& linear_bias, const Tensor& hidden, const Tensor& hidden_bias, const Tensor& out,
                        const Tensor& out_bias, bool keeps) {
    const int64_t d = out.size(0), c = out.size(1), patches = x.size(2);
    const Tensor linear_weights = linear.contiguous(), hidden_weights = hidden.contiguous();
    const Tensor out_weights = out.contiguous(), bias = linear_bias + out_bias;
    const Tensor code = torch::empty({x.size(0), d, patches}, x.options());
    const Tensor before = keeps ? large_empty(x.sizes(), x.options()) : Tensor();  // what is activated
    with_scalar(x, [&](auto zero) {
      using T = decltype(zero);
      const T *const code_bias = bias.data_ptr<T>(), *const in_bias = hidden_bias.data_ptr<T>();
      const int64_t columns = std::min(patches, kColumns);
      for_each_task(x.size(0), patches, columns, d * c, [&](int64_t b, int64_t first, int64_t n) {
        AlignedBuffer<T> buffer(static_cast<std::size_t>((d + c) * c + (d + c) * n));
        const Rows<T> own{buffer.data(), c}, linear_part{own[d + c], n}, activated{linear_part[d], n};
        const Rows<const T> from = rows_of<const T>(x, b, first);
        const Rows<const T> w = masked<T>(linear_weights, masks.linear, b, own);
        const Rows<const T> hidden_w = masked<T>(hidden_weights, masks.hidden, b, own.at(d, 0));
        const Rows<T> hidden_part = keeps ? rows_of<T>(before, b, first) : activated, to = rows_of<T>(code, b, first);
        product<RowProduct>(d, c, n, w, from, linear_part);
        product<RowProduct>(c, c, n, hidden_w, from, hidden_part);
        add_to_rows(c, n, in_bias, hidden_part);
        run_kernel<Silu>(machine_isa(), c, n, constant(hidden_part), activated, Rows<T>{nullptr, 0});
        product<RowProduct>(d, c, n, rows_of_matrix<T>(out_weights), constant(activated), to);
        add_to_rows(d, n, code_bias, to);
        for (int64_t r = 0; r < d; ++r) {
          for (int64_t j = 0; j < n; ++j) to[r][j] += linear_part[r][j];
        }
      });
    });
    context->save_for_backward({x, masks.linear, masks.hidden, out, before});
    return code;
  }

  static torch::autograd::variable_list backward(Context* context, torch::autograd::variable_list grads) {
    check_once_differentiable("smooseg::Projector");
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &out = saved[3], &before = saved[4];
    const ChannelMasks masks{saved[1], saved[2]};
    const Tensor grad = grads[0].contiguous(), out_transposed = out.t().contiguous();
    const int64_t batch = x.size(0), d = out.size(0), c = out.size(1), patches = x.size(2);

    // Gradients of both branches' matrices, of `out` and of the biases, summed over a few images each and then over
    // all, in order: the result does not depend on the number of threads.
    const int64_t tasks = (batch + kImages - 1) / kImages;
    const Tensor sums = torch::empty({tasks, 1, (d + c) * c + d * c + d + c}, x.options());
    with_scalar(x, [&](auto zero) {
      using T = decltype(zero);
      parallel_for(tasks, [&](int64_t task) {
        const int64_t columns = std::min(patches, DotProduct::kBlock);
        AlignedBuffer<T> buffer(static_cast<std::size_t>((d + c) * c + (d + 2 * c + 1) * columns));
        const Rows<T> of_image{buffer.data(), c}, both{of_image[d + c], columns}, activated{both[d + c], columns};
        const Rows<T> ones{activated[c], columns};
        std::fill(ones.data, ones.data + columns, T{1});
        const Rows<T> of_weights{sums.data_ptr<T>() + task * sums.size(2), c}, of_out = of_weights.at(d + c, 0);
        const Rows<T> of_biases{of_out[d], 1};
        std::fill(of_weights.data, of_weights.data + sums.size(2), T{0});
        for (int64_t b = task * kImages; b < std::min(batch, (task + 1) * kImages); ++b) {
          for (int64_t first = 0; first < patches; first += columns) {
            const int64_t n = std::min(columns, patches - first);
            const Rows<const T> from = rows_of<const T>(x, b, first), g = rows_of<const T>(grad, b, first);
            for (int64_t r = 0; r < d; ++r) std::copy(g[r], g[r] + n, both[r]);
            const Rows<T> of_hidden = both.at(d, 0);
            product<RowProduct>(c, d, n, rows_of_matrix<T>(out_transposed), g, of_hidden);
            run_kernel<Silu>(machine_isa(), c, n, rows_of<const T>(before, b, first), activated, of_hidden);
            add_dots(d + c, n, c, constant(both), from, of_image, first > 0);
            add_dots(d, n, c, g, constant(activated), of_out, true);
            add_dots(d + c, n, 1, constant(both), constant(ones), of_biases, true);
          }
          for (int64_t r = 0; r < d + c; ++r) {
            const T* const factors = factors_of<T>(r < d ? masks.linear : masks.hidden, b);
            for (int64_t j = 0; j < c; ++j) of_weights[r][j] += of_image[r][j] * (factors == nullptr ? 1 : factors[j]);
          }
        }
      });
    });
    const Tensor sum = sum_of_batch(sums).flatten();
    const auto parts = sum.split_with_sizes({d * c, c * c, d * c, d, c});
    return {Tensor(), Tensor(), parts[0].view({d, c}), parts[3], parts[1].view({c, c}), parts[4], parts[2].view({d, c}),
            parts[3], Tensor()};
  }

 private:
  static constexpr int64_t kColumns = 400;  // of a task: what it needs fits a processor's second cache
  static constexpr int64_t kImages = 2;     // of a task of the backward pass

  /// An image's factors, null where all are 1.
  template <class T>
  static const T* factors_of(const Tensor& mask, int64_t image) {
    return mask.defined() ? mask.data_ptr<T>() + image * mask.size(1) : nullptr;
  }
  template <class T>
  static Rows<const T> constant(const Rows<T>& rows) {
    return {rows.data, rows.stride};
  }
  template <class T>
  static Rows<const T> rows_of_matrix(const Tensor& t) {
    return {t.data_ptr<T>(), t.stride(0)};
  }

  template <class Kernel, class T>
  static void product(int64_t m, int64_t reduced, int64_t n, Rows<const T> left, Rows<const T> right, Rows<T> out) {
    run_kernel<Kernel>(machine_isa(), m, reduced, n, left, right, static_cast<const T*>(nullptr), out, false);
  }

  /// out (M,N) = left (M,R) right^T, right being (N,R), added to what is there if `add`.
  template <class T>
  static void add_dots(int64_t m, int64_t reduced, int64_t n, Rows<const T> left, Rows<const T> right, Rows<T> out,
                       bool add) {
    run_kernel<DotProduct>(machine_isa(), m, reduced, n, left, right, static_cast<const T*>(nullptr), out, add);
  }

  template <class T>
  static void add_to_rows(int64_t rows, int64_t n, const T* values, Rows<T> to) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < n; ++j) to[r][j] += values[r];
    }
  }

  /// A branch's matrix (M,C) for an image, its columns times its mask: in `own` if there is a mask.
  template <class T>
  static Rows<const T> masked(const Tensor& weights, const Tensor& mask, int64_t b, Rows<T> own) {
    const Rows<const T> all = rows_of_matrix<T>(weights);
    const T* const factors = factors_of<T>(mask, b);
    if (factors == nullptr) return all;
    for (int64_t r = 0; r < weights.size(0); ++r) {
      for (int64_t j = 0; j < weights.size(1); ++j) own[r][j] = all[r][j] * factors[j];
    }
    return constant(own);
  }
};

}  // namespace smooseg::detail
