#pragma once

// The sums of factorized_sums.hpp for any closeness and penalty, by building W and delta in blocks.

#include <ATen/Functions.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "smooseg/detail/autograd/unit_vectors.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

struct CallEmbed {
  template <class Policy, class X>
  auto operator()(Policy& policy, X& x) const -> decltype(policy.embed(x));
};
struct CallPrepare {
  template <class Policy, class X>
  auto operator()(Policy& policy, X& x) const -> decltype(policy.prepare(x));
};

/// Whether a policy has the function that `Call` calls. One that is not const, or takes its tensor by non-const reference,
/// would be passed over in silence, and is refused.
template <class Call, class Policy>
constexpr bool has() {
  constexpr bool kHas = std::is_invocable_v<Call, const Policy&, const Tensor&>;
  static_assert(kHas || !std::is_invocable_v<Call, Policy&, Tensor&>,
                "a policy's embed and prepare must be const and take const Tensor&");
  return kHas;
}
template <class Policy>
constexpr bool kHasEmbed = has<CallEmbed, Policy>();

/// Checks what a policy's function has returned. @param sizes what is expected; -1: any.
inline void check_policy(const Tensor& result, const char* function, at::IntArrayRef sizes, torch::ScalarType dtype) {
  bool fits = result.defined() && result.scalar_type() == dtype && result.dim() == static_cast<int64_t>(sizes.size());
  for (std::size_t d = 0; fits && d < sizes.size(); ++d) {
    fits = sizes[d] < 0 || result.size(static_cast<int64_t>(d)) == sizes[d];
  }
  TORCH_CHECK(fits, "smooseg::functional::smoothness: expected a policy's `", function, "` to return sizes ", sizes,
              " (-1: any) of ", dtype, ", got ", shape_of(result), result.defined() ? " of " : "",
              result.defined() ? c10::toString(result.scalar_type()) : "");
}

/// A policy's embedding of x (B,C,N), checked: (B,D,N).
template <class Policy>
Tensor embedded(const Policy& policy, const Tensor& x) {
  const Tensor result = policy.embed(x);
  check_policy(result, "embed", {x.size(0), -1, x.size(2)}, x.scalar_type());
  return result;
}

/// W, or delta, of two patch sets, (1,C,P) and (1,C,Q) -> (1,P,Q): a policy's `pairwise`, or the inner products of its
/// embeddings, subtracted from one for a penalty.
template <class Policy>
Tensor pairwise(const Policy& policy, const Tensor& x, const Tensor& y, bool is_penalty) {
  if constexpr (kHasEmbed<Policy>) {
    const Tensor products = embedded(policy, x).transpose(1, 2).matmul(embedded(policy, y));
    return is_penalty ? 1 - products : products;
  } else {
    const Tensor result = policy.pairwise(x, y);
    check_policy(result, "pairwise", {1, x.size(2), y.size(2)}, x.scalar_type());
    return result;
  }
}

/// Pairwise evaluation computes blocks again in its backward pass, outside the graph: what a policy holds gets no gradient
/// there, so that it must not ask for one. @param x (B,C,N).
template <class Policy>
void check_without_parameters(const Policy& policy, const Tensor& x) {
  const Tensor patch = x.detach().narrow(0, 0, 1).narrow(2, 0, 1);
  Tensor result;
  if constexpr (kHasEmbed<Policy>) {
    result = policy.embed(patch);
  } else {
    result = policy.pairwise(patch, patch);
  }
  TORCH_CHECK(
      !torch::GradMode::is_enabled() || !result.defined() || !result.requires_grad(),
      "smooseg::functional::smoothness: a policy evaluated pairwise cannot learn: its tensors require gradients "
      "that they would not get; call requires_grad_(false) on them, or give the policy an `embed`");
}

/// What pairwise evaluation needs besides tensors; held by the autograd graph between forward and backward.
template <class Closeness, class Penalty>
struct PairwisePlan : torch::CustomClassHolder {
  /// @param pairing on the features' device.
  PairwisePlan(Closeness w, Penalty delta, Tensor pairing, bool is_centered, int64_t max_bytes)
      : closeness(std::move(w)),
        penalty(std::move(delta)),
        partners(std::move(pairing)),
        centered(is_centered),
        block_bytes(max_bytes) {}

  /// The three sums over the pairs of some patches of one image, (1,C,P) and (1,K,P), and all patches of another.
  Tensor sums(const Tensor& x, const Tensor& a, const Tensor& y, const Tensor& b) const {
    const Tensor w = pairwise(closeness, x, y, false), delta = pairwise(penalty, a, b, true);
    const Tensor weighted = (centered ? w - w.mean(-1, /*keepdim=*/true) : w) * delta;
    return torch::stack({weighted.sum(), delta.sum(), w.sum()});
  }

  /// Of maps (B,C,N) those that image i is compared with, (1,C,N): its own, or across images its partner's.
  Tensor other(int64_t across, int64_t i, const Tensor& maps) const {
    return across == 0 ? maps.narrow(0, i, 1) : maps.index_select(0, partners.narrow(0, i, 1));
  }

  /// Adds to the same maps.
  void add_to_other(int64_t across, int64_t i, const Tensor& added, Tensor& maps) const {
    if (across == 0) {
      maps.narrow(0, i, 1) += added;
    } else {
      maps.index_add_(0, partners.narrow(0, i, 1), added);
    }
  }

  /// Calls f(0 within or 1 across, image, first row, number of rows) for blocks within the memory bound.
  template <class F>
  void for_each_block(const Tensor& x, const F& f) const {
    const int64_t row_bytes = x.size(2) * static_cast<int64_t>(x.element_size());
    const int64_t rows = std::max<int64_t>(1, block_bytes / row_bytes);
    for (int64_t i = 0; i < x.size(0); ++i) {
      for (const int64_t across : {0, 1}) {
        for (int64_t p = 0; p < x.size(2); p += rows) f(across, i, p, std::min(rows, x.size(2) - p));
      }
    }
  }

  Closeness closeness;
  Penalty penalty;
  Tensor partners;
  bool centered;
  int64_t block_bytes;
};

/// Pairwise sums whose backward pass computes each block again instead of keeping it.
template <class Closeness, class Penalty>
struct PairwiseSums : torch::autograd::Function<PairwiseSums<Closeness, Penalty>> {
  using Plan = PairwisePlan<Closeness, Penalty>;
  using Context = torch::autograd::AutogradContext;

  /// @param x (B,C,N). @param a (B,K,N), of x's dtype. @return (2,3): within, across.
  static Tensor forward(Context* context, const Tensor& x, const Tensor& a, const c10::intrusive_ptr<Plan>& plan) {
    context->save_for_backward({x, a});
    context->saved_data["plan"] = c10::IValue::make_capsule(plan);
    Tensor sums = torch::zeros({2, 3}, x.options());
    plan->for_each_block(x, [&](int64_t across, int64_t i, int64_t p, int64_t rows) {
      sums[across] += plan->sums(x.narrow(0, i, 1).narrow(2, p, rows), a.narrow(0, i, 1).narrow(2, p, rows),
                                 plan->other(across, i, x), plan->other(across, i, a));
    });
    return sums;
  }

  static torch::autograd::variable_list backward(Context* context, torch::autograd::variable_list grads) {
    check_once_differentiable("smooseg::SmoothnessLoss");
    const auto saved = context->get_saved_variables();
    const Tensor x = saved[0].detach(), a = saved[1].detach();
    const auto plan = c10::static_intrusive_pointer_cast<Plan>(context->saved_data["plan"].toCapsule());
    const bool wants_x = context->needs_input_grad(0), wants_a = context->needs_input_grad(1);
    Tensor grad_x = wants_x ? torch::zeros_like(x) : Tensor();
    Tensor grad_a = wants_a ? torch::zeros_like(a) : Tensor();
    plan->for_each_block(x, [&](int64_t across, int64_t i, int64_t p, int64_t rows) {
      torch::AutoGradMode with_grad(true);
      const auto leaf = [](const Tensor& t, bool wanted) { return t.detach().requires_grad_(wanted); };
      const Tensor xi = leaf(x.narrow(0, i, 1).narrow(2, p, rows), wants_x),
                   xj = leaf(plan->other(across, i, x), wants_x);
      const Tensor ai = leaf(a.narrow(0, i, 1).narrow(2, p, rows), wants_a),
                   aj = leaf(plan->other(across, i, a), wants_a);
      const Tensor sum = (plan->sums(xi, ai, xj, aj) * grads[0][across]).sum();
      torch::autograd::variable_list leaves;
      if (wants_x) leaves.insert(leaves.end(), {xi, xj});
      if (wants_a) leaves.insert(leaves.end(), {ai, aj});
      const auto found = torch::autograd::grad({sum}, leaves);
      torch::NoGradGuard no_grad;
      std::size_t next = 0;
      for (Tensor* grad : {&grad_x, &grad_a}) {
        if (!grad->defined()) continue;
        grad->narrow(0, i, 1).narrow(2, p, rows) += found[next++];
        plan->add_to_other(across, i, found[next++], *grad);
      }
    });
    return {grad_x, grad_a, Tensor()};
  }
};

}  // namespace smooseg::detail
