#pragma once

// What Eq. 4 follows from for any threshold, in linear time: over all pairs of patches of the images of a batch and
// their partners, the sums of W delta (W centred by row unless `Centering::kNone`), of delta, and of raw W.

#include <ATen/Functions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "smooseg/detail/autograd/unit_vectors.hpp"
#include "smooseg/detail/kernels/moments.hpp"
#include "smooseg/detail/kernels/products.hpp"
#include "smooseg/detail/kernels/widen.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/exchange.hpp"

namespace smooseg::detail {

/// The sums in closed form. With unit vectors x and a of N patches and, per image, G = sum_p a_p x_p^T, s = sum_p a_p,
/// f = sum_p x_p and m = f / N:
///
///     sum W = f_i . f_j,   sum delta = N^2 - s_i . s_j,   sum W delta = sum W - <G_i, G_j>,
///     sum Wc delta = -<G_i, G_j - s_j m_j^T>   with W centred by row.
///
/// One product over x forward, one backward (two where x wants a gradient); x is never copied.
///
/// Of several processes: G, s and f of all their images are gathered, and all have the same sums. The gradient to a
/// process's own images is that of the sums of all processes together, size() times that of one, so that the mean of
/// their gradients is the gradient of one; it follows from what was gathered.
struct FactorizedSums : torch::autograd::Function<FactorizedSums> {
  using Context = torch::autograd::AutogradContext;

  /// A negative eps: embedded already.
  struct Options {
    double features_eps, labels_eps;
    bool centered;
    int64_t block_bytes;
    Exchange* exchange;  // null: this process alone
  };

  /// @param x (B,C,N), floating. @param a (B,K,N), of the dtype to compute in. @param pairing (B), of all processes.
  /// @return (2,3): within, across.
  static Tensor forward(Context* context, const Tensor& x, const Tensor& a, const Tensor& pairing,
                        const Options& options) {
    std::vector<PatchMoments> parts;
    for_each_part(x, a.scalar_type(), options.block_bytes, [&](int64_t first, const Tensor& part) {
      parts.push_back(patch_moments(part, a.narrow(2, first, part.size(2)), options.features_eps, options.labels_eps));
    });
    PatchMoments moments = joined(parts);
    const int64_t processes = options.exchange == nullptr ? 1 : options.exchange->size();
    if (processes > 1) gather(*options.exchange, moments);
    const WithPartners p(moments, pairing, a.size(2));

    // sum_i <G_i, G_j> for j = i and for i's partner, (2); likewise of the labels and of W itself.
    const auto dot = [](const Tensor& u, const Tensor& v) {
      return batched_product(u.unsqueeze(1), v.unsqueeze(2)).sum();
    };
    const auto squares = [&](const Tensor& u) { return torch::stack({dot(u, u), dot(u, mixed(p.partners, u))}); };
    const Tensor closeness = squares(p.f), labels = squares(p.s);
    const double pairs = static_cast<double>(pairing.size(0) * a.size(2)) * static_cast<double>(a.size(2));
    Tensor product = squares(p.g), g_times_m;
    if (options.centered) {
      g_times_m = batched_product(p.g_maps, p.m_both.transpose(1, 2));  // (B,K,2)
      product = product - (g_times_m * p.s_both).sum(torch::IntArrayRef{0, 1});
    }

    context->save_for_backward(
        {x, a, pairing, moments.x_scale, moments.a_scale, moments.product, moments.labels, g_times_m});
    context->saved_data["features_eps"] = options.features_eps;
    context->saved_data["labels_eps"] = options.labels_eps;
    context->saved_data["block_bytes"] = options.block_bytes;
    context->saved_data["processes"] = processes;
    context->saved_data["first_image"] = processes > 1 ? options.exchange->rank() * a.size(0) : int64_t{0};
    return torch::stack({options.centered ? -product : closeness - product, pairs - labels, closeness}, 1);
  }

  static torch::autograd::variable_list backward(Context* context, torch::autograd::variable_list grads) {
    check_once_differentiable("smooseg::SmoothnessLoss");
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &a = saved[1], &x_scale = saved[3], &a_scale = saved[4], &g_times_m = saved[7];
    const bool centered = g_times_m.defined();
    const WithPartners p({saved[5], saved[6], x_scale, a_scale}, saved[2], a.size(2));
    const int64_t processes = context->saved_data["processes"].toInt();
    // Of W delta, delta and W: (2) each, within and across.
    const auto to_sum = (processes > 1 ? grads[0] * processes : grads[0]).unbind(1);
    const auto own = [&, first = context->saved_data["first_image"].toInt()](const Tensor& t) {
      return t.narrow(0, first, a.size(0));  // of all processes' images
    };

    // w_0 sum_i <u_i, u_i> + w_1 sum_i <u_i, u_j> has the gradient (2 w_0 + w_1 (P + P^T)) u to u.
    const Tensor itself = torch::eye(p.s.size(0), p.s.options());
    const auto of_squares = [&](const Tensor& weights, const Tensor& u) {
      return mixed(own(2 * weights[0] * itself + weights[1] * (p.partners + p.partners.t())), u);
    };
    // The gradient to s or m from those to s_both or m_both.
    const auto own_and_partners = [&](const Tensor& of_both, int64_t dim) {
      return own(of_both.select(dim, 0)) + mixed(own(p.partners.t()), of_both.select(dim, 1));
    };
    const Tensor grad_g = of_squares(-to_sum[0], p.g).view({a.size(0), a.size(1), x.size(1)});
    Tensor grad_s = of_squares(-to_sum[1], p.s);
    if (centered) {
      batched_product(own(p.s_both) * to_sum[0], own(p.m_both), {}, grad_g);
      grad_s += own_and_partners(g_times_m * to_sum[0], 2);
    }

    const double features_eps = context->saved_data["features_eps"].toDouble();
    const double labels_eps = context->saved_data["labels_eps"].toDouble();
    const bool wants_x = context->needs_input_grad(0), wants_a = context->needs_input_grad(1);
    Tensor grad_gf;  // of G and, below it, f, which x follows from
    if (wants_x) {
      Tensor grad_f = of_squares(centered ? to_sum[2] : to_sum[2] + to_sum[0], p.f);
      if (centered) {
        const Tensor of_means = batched_product((p.s_both * to_sum[0]).transpose(1, 2), p.g_maps);  // (B,2,C)
        grad_f += own_and_partners(of_means, 1).div_(static_cast<double>(a.size(2)));
      }
      grad_gf = at::cat({grad_g, grad_f.unsqueeze(1)}, 1);
    }
    std::vector<Tensor> x_parts;
    Tensor grad_a = wants_a ? torch::empty_like(a, at::MemoryFormat::Contiguous) : Tensor();
    const auto add_part = [&](int64_t first, const Tensor& part) {
      const auto here = [&](const Tensor& t) { return t.narrow(2, first, part.size(2)); };
      if (wants_a) batched_product(grad_g, part, here(x_scale), here(grad_a), /*add=*/false);
      if (!wants_x) return;
      const Tensor right = at::cat({here(a) * here(a_scale), torch::ones_like(here(x_scale))}, 1);
      Tensor grad = batched_product(grad_gf.transpose(1, 2), right);
      if (features_eps >= 0) grad = column_unit_backward(part, here(x_scale), features_eps, grad);
      x_parts.push_back(grad.to(x.scalar_type()));
    };
    for_each_part(x, a.scalar_type(), context->saved_data["block_bytes"].toInt(), add_part);
    if (wants_a) {
      const Tensor of_sums = grad_s.unsqueeze(2);
      grad_a = labels_eps >= 0 ? column_unit_backward(a, a_scale, labels_eps, grad_a, of_sums) : grad_a.add_(of_sums);
    }
    const Tensor grad_x = x_parts.empty() ? Tensor() : x_parts.size() == 1 ? x_parts[0] : at::cat(x_parts, 2);
    return {grad_x, grad_a, Tensor(), Tensor()};
  }

 private:
  /// Those of all processes' images in the place of this one's; the scales stay.
  static void gather(Exchange& exchange, PatchMoments& moments) {
    const auto product = moments.product.sizes().vec();  // (B,K+1,C)
    const int64_t length = product[1] * product[2];
    const Tensor all = exchange.all_gather(at::cat({moments.product.flatten(1), moments.labels.flatten(1)}, 1));
    moments.product = all.narrow(1, 0, length).contiguous().view({-1, product[1], product[2]});
    moments.labels = all.narrow(1, length, all.size(1) - length).contiguous().unsqueeze(2);
  }

  /// The moments of each image i, and the small ones also of its partner j.
  struct WithPartners {
    WithPartners(const PatchMoments& moments, const Tensor& pairing, int64_t patches)
        : partners(torch::zeros({pairing.size(0), pairing.size(0)}, moments.labels.options())
                       .scatter_(1, pairing.unsqueeze(1), 1)),
          g_maps(moments.product.narrow(1, 0, moments.labels.size(1))),
          g(moments.product.flatten(1).narrow(1, 0, g_maps.size(1) * g_maps.size(2))),
          f(moments.product.select(1, g_maps.size(1))),
          s(moments.labels.flatten(1)),
          s_both(torch::stack({s, s.index_select(0, pairing)}, 2)),
          m_both(torch::stack({f, f.index_select(0, pairing)}, 1) / static_cast<double>(patches)) {}

    Tensor partners;        // P, (B,B): 1 where j is i's partner
    Tensor g_maps, g;       // (B,K,C), and (B,K C)
    Tensor f, s;            // (B,C), (B,K)
    Tensor s_both, m_both;  // (B,K,2), (B,2,C): of i and j
  };

  /// sum_j matrix[i,j] u_j for each image i. @param u (B,M). @return (B,M), contiguous.
  static Tensor mixed(const Tensor& matrix, const Tensor& u) {
    return batched_product(matrix.unsqueeze(0), u.unsqueeze(0)).squeeze(0);
  }

  /// Calls f(first patch, patches in `dtype`): once where x has it, else for converted parts of at most `bytes`.
  template <class F>
  static void for_each_part(const Tensor& x, torch::ScalarType dtype, int64_t bytes, const F& f) {
    if (x.scalar_type() == dtype) return f(0, x);
    const int64_t patch_bytes = x.size(0) * x.size(1) * static_cast<int64_t>(c10::elementSize(dtype));
    const int64_t patches = std::max<int64_t>(1, bytes / patch_bytes);
    for (int64_t first = 0; first < x.size(2); first += patches) {
      f(first, widened(x.narrow(2, first, std::min(patches, x.size(2) - first)), dtype));
    }
  }
};

}  // namespace smooseg::detail
