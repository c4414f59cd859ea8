#pragma once

// What Eq. 4 follows from for any threshold, in linear time: over all pairs of patches of the images of a batch and
// their partners, the sums of W delta (W centred by row unless `Centering::kNone`), of delta, and of raw W.

#include <ATen/Functions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "smooseg/detail/products.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/detail/unit_vectors.hpp"

namespace smooseg::detail {

/// The sums in closed form, for the pairs within and across images. With unit vectors x and a of N patches and, per
/// image, G = sum_p a_p x_p^T, s = sum_p a_p, f = sum_p x_p and m = f / N:
///
///     sum W = f_i . f_j,   sum delta = N^2 - s_i . s_j,   sum W delta = sum W - <G_i, G_j>,
///     sum Wc delta = -<G_i, H_j>   with W centred by row and H = G - s m^T.
///
/// One product over x forward, one backward (two where x wants a gradient); x is never copied.
struct FactorizedSums : torch::autograd::Function<FactorizedSums> {
  using Context = torch::autograd::AutogradContext;

  /// A negative eps: embedded already.
  struct Options {
    double features_eps, labels_eps;
    bool centered;
    int64_t block_bytes;
  };

  /// @param x (B,C,N), floating. @param a (B,K,N), of the dtype to compute in. @return (2,3): within, across.
  static Tensor forward(Context* context, const Tensor& x, const Tensor& a, const Tensor& pairing,
                        const Options& options) {
    const int64_t classes = a.size(1), patches = a.size(2);
    const Tensor a_scale = scales(a, options.labels_eps);
    const Tensor x_scale = torch::empty_like(a_scale);
    Tensor moments;  // (B,K+1,C): G, and below it f
    for_each_part(x, a.scalar_type(), options.block_bytes, [&](int64_t first, const Tensor& part) {
      const auto here = [&](const Tensor& t) { return t.narrow(2, first, part.size(2)); };
      const Tensor scale = scales(part, options.features_eps);
      here(x_scale).copy_(scale);
      // The normalisation goes to the small side, and 1/|x| as one more row of it gives the sum of x.
      const Tensor left = torch::empty({a.size(0), classes + 1, part.size(2)}, a.options());
      left.narrow(1, 0, classes).copy_(here(a)).mul_(here(a_scale) * scale);
      left.narrow(1, classes, 1).copy_(scale);
      const Tensor product = batched_product(left, part.transpose(1, 2));
      moments = moments.defined() ? moments.add_(product) : product;
    });
    const Tensor g = moments.narrow(1, 0, classes), f = moments.narrow(1, classes, 1);
    const Tensor s = batched_product(a, a_scale.transpose(1, 2));  // (B,K,1)
    const Tensor h = options.centered ? g - s * (f / static_cast<double>(patches)) : g;
    const double pairs = static_cast<double>(a.size(0) * patches) * static_cast<double>(patches);
    const auto dot = [](const Tensor& u, const Tensor& v) { return (u * v).sum(); };
    const auto across = [&](const Tensor& t) { return t.index_select(0, pairing); };

    context->save_for_backward({x, a, pairing, x_scale, a_scale, moments, s});
    context->saved_data["features_eps"] = options.features_eps;
    context->saved_data["labels_eps"] = options.labels_eps;
    context->saved_data["centered"] = options.centered;
    context->saved_data["block_bytes"] = options.block_bytes;
    const auto sums = [&](const Tensor& hj, const Tensor& sj, const Tensor& fj) {
      const Tensor product = dot(g, hj), closeness = dot(f, fj);
      return torch::stack({options.centered ? -product : closeness - product, pairs - dot(s, sj), closeness});
    };
    return torch::stack({sums(h, s, f), sums(across(h), across(s), across(f))});
  }

  static torch::autograd::variable_list backward(Context* context, torch::autograd::variable_list grads) {
    check_once_differentiable("smooseg::SmoothnessLoss");
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &a = saved[1], &pairing = saved[2], &x_scale = saved[3], &a_scale = saved[4];
    const int64_t classes = a.size(1), patches = a.size(2);
    const Tensor g = saved[5].narrow(1, 0, classes), f = saved[5].narrow(1, classes, 1), &s = saved[6];
    const Tensor m = f / static_cast<double>(patches);
    const bool centered = context->saved_data["centered"].toBool();
    const auto to_sum = grads[0].unbind(1);  // of W delta, delta and W: (2) each, within and across

    // sum_i <u_i, v_j(i)> has the gradients v_j(i) to u_i and, gathered over whose partner j is, u_i to v_j.
    const auto both = [&](const Tensor& weights, const Tensor& u, const Tensor& v) {  // of <u_i, v_i> and <u_i, v_j>
      const Tensor across = v.index_select(0, pairing).index_add_(0, pairing, u).mul_(weights[1]);
      return (u + v).mul_(weights[0]).add_(across);
    };
    const Tensor grad_g = both(to_sum[0], g, centered ? g - s * m : g).neg_();
    const Tensor grad_s = both(to_sum[1], s, s).neg_();
    const Tensor grad_f = both(centered ? to_sum[2] : to_sum[2] + to_sum[0], f, f);
    if (centered) {
      // Minus the gradient to H; its part through s m^T.
      const Tensor to_h = (g * to_sum[0][0]).index_add_(0, pairing, g * to_sum[0][1]);
      grad_s.add_(to_h.matmul(m.transpose(1, 2)));
      grad_f.add_(s.transpose(1, 2).matmul(to_h), 1 / static_cast<double>(patches));
    }

    const double features_eps = context->saved_data["features_eps"].toDouble();
    const double labels_eps = context->saved_data["labels_eps"].toDouble();
    const bool wants_x = context->needs_input_grad(0), wants_a = context->needs_input_grad(1);
    std::vector<Tensor> x_parts, a_parts;
    for_each_part(x, a.scalar_type(), context->saved_data["block_bytes"].toInt(),
                  [&](int64_t first, const Tensor& part) {
                    const auto here = [&](const Tensor& t) { return t.narrow(2, first, part.size(2)); };
                    if (wants_a) a_parts.push_back(batched_product(grad_g, part, here(x_scale)));
                    if (wants_x) {
                      const Tensor right = at::cat({here(a) * here(a_scale), torch::ones_like(here(x_scale))}, 1);
                      Tensor grad = batched_product(at::cat({grad_g, grad_f}, 1).transpose(1, 2), right);
                      if (features_eps >= 0) grad = unit_vectors_backward(part, here(x_scale), features_eps, grad);
                      x_parts.push_back(grad.to(x.scalar_type()));
                    }
                  });
    const auto joined = [](const std::vector<Tensor>& parts) {
      return parts.empty() ? Tensor() : parts.size() == 1 ? parts[0] : at::cat(parts, 2);
    };
    Tensor grad_a = joined(a_parts);
    if (wants_a) {
      grad_a.add_(grad_s);
      if (labels_eps >= 0) grad_a = unit_vectors_backward(a, a_scale, labels_eps, grad_a);
    }
    return {joined(x_parts), grad_a, Tensor(), Tensor()};
  }

 private:
  static Tensor scales(const Tensor& x, double eps) {
    return eps < 0 ? torch::ones({x.size(0), 1, x.size(2)}, x.options()) : inverse_norms(x, eps);
  }

  /// Calls f(first patch, patches in `dtype`): once where x has it, else for converted parts of at most `bytes`.
  template <class F>
  static void for_each_part(const Tensor& x, torch::ScalarType dtype, int64_t bytes, const F& f) {
    if (x.scalar_type() == dtype) return f(0, x);
    const int64_t patch_bytes = x.size(0) * x.size(1) * static_cast<int64_t>(c10::elementSize(dtype));
    const int64_t patches = std::max<int64_t>(1, bytes / patch_bytes);
    for (int64_t first = 0; first < x.size(2); first += patches) {
      f(first, x.narrow(2, first, std::min(patches, x.size(2) - first)).to(dtype));
    }
  }
};

}  // namespace smooseg::detail
