#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/arg.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <ostream>
#include <type_traits>
#include <utility>
#include <vector>

#include "smooseg/closeness.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/pairing.hpp"
#include "smooseg/penalty.hpp"

namespace smooseg {

/// How Eq. 4 is evaluated. Both give the same value and gradient to rounding.
enum class Evaluation {
  kAuto,        ///< Factorised where both policies are inner products of embeddings, else pairwise.
  kFactorized,  ///< O(N C K) time, no N x N matrix.
  kPairwise,    ///< O(N^2 (C + K)) time, in blocks of bounded memory; for any policy.
};

/// Whether Eq. 4 sums over batch and pairs (the paper) or averages (the published program).
enum class Reduction { kMean, kSum };

struct SmoothnessOptions {
  /// b of the pairs within an image: closer patches than this are pulled together, others pushed apart.
  TORCH_ARG(double, within_threshold) = -0.02;
  /// b of the pairs of an image and its partner.
  TORCH_ARG(double, across_threshold) = 0.5;
  TORCH_ARG(Centering, centering) = Centering::kRowKeepMean;
  TORCH_ARG(Reduction, reduction) = Reduction::kMean;
  TORCH_ARG(Evaluation, evaluation) = Evaluation::kAuto;
  /// Bound in bytes on each P x Q matrix that pairwise evaluation builds, forward and backward.
  TORCH_ARG(int64_t, block_bytes) = int64_t{16} << 20;
};

/// The two halves of Eq. 4 and the mean penalties of their pairs; scalars. Gradients flow through all four.
struct SmoothnessTerms {
  Tensor within, across, within_penalty_mean, across_penalty_mean;
  Tensor total() const { return within + across; }
};

namespace detail {

template <class Policy, class = void>
struct HasEmbed : std::false_type {};
template <class Policy>
struct HasEmbed<Policy, std::void_t<decltype(std::declval<const Policy&>().embed(std::declval<const Tensor&>()))>>
    : std::true_type {};

/// Sums over all pairs of patches of the images of a batch and their partners, from which Eq. 4 follows for any
/// threshold: of W delta (W centred by row unless `Centering::kNone`), of delta, and of raw W. Scalars.
struct PairSums {
  Tensor weighted, penalty, closeness;
};

/// Per image: G^T = sum_p a_p x_p^T, the sums of x and of a over the patches, for embedded x and a.
struct PatchMoments {
  Tensor product;   // (B,K,C)
  Tensor features;  // (B,1,C)
  Tensor labels;    // (B,K,1)

  PatchMoments select(const Tensor& images) const {
    return {product.index_select(0, images), features.index_select(0, images), labels.index_select(0, images)};
  }
};

/// @param x (B,C,N). @param a (B,K,N).
template <class Closeness, class Penalty>
PatchMoments patch_moments(const Closeness& closeness, const Penalty& penalty, const Tensor& x, const Tensor& a) {
  const Tensor labels = penalty.embed(a);
  const int64_t classes = labels.size(1);
  if constexpr (std::is_same_v<Closeness, CosineCloseness>) {
    // The normalisation goes to the small side, and 1/|x| as one more row of it gives the sum of x in the same product.
    const Tensor scale = closeness.scale(x);
    const Tensor rows = at::cat({labels * scale, scale}, 1).matmul(x.transpose(1, 2));
    return {rows.narrow(1, 0, classes), rows.narrow(1, classes, 1), labels.sum(-1, true)};
  } else {
    const Tensor embedded = closeness.embed(x).transpose(1, 2);
    return {labels.matmul(embedded), embedded.sum(1, true), labels.sum(-1, true)};
  }
}

/// The sums in closed form: sum delta = N^2 - s_i . s_j, sum Wc delta = -<G_i, G_j - m_j s_j^T>, sum W = N m_i . N m_j.
inline PairSums factorized_sums(const PatchMoments& i, const PatchMoments& j, int64_t patches, Centering centering) {
  const auto pairs = static_cast<double>(i.product.size(0) * patches) * static_cast<double>(patches);
  const Tensor closeness = (i.features * j.features).sum();
  const Tensor penalty = pairs - (i.labels * j.labels).sum();
  if (centering == Centering::kNone) return {closeness - (i.product * j.product).sum(), penalty, closeness};
  const Tensor centered = j.product - j.labels * (j.features / static_cast<double>(patches));
  return {-(i.product * centered).sum(), penalty, closeness};
}

/// W or delta of two patch sets, (1,C,P) and (1,C,Q) -> (1,P,Q).
template <class Policy>
Tensor pairwise_inner_or_custom(const Policy& policy, const Tensor& x, const Tensor& y) {
  if constexpr (HasEmbed<Policy>::value) {
    return policy.embed(x).transpose(1, 2).matmul(policy.embed(y));
  } else {
    return policy.pairwise(x, y);
  }
}

/// What pairwise evaluation needs besides tensors; held by the autograd graph between forward and backward.
template <class Closeness, class Penalty>
struct PairwisePlan : torch::CustomClassHolder {
  PairwisePlan(Closeness closeness, Penalty penalty, Centering centering, int64_t block_bytes)
      : closeness(std::move(closeness)), penalty(std::move(penalty)), centering(centering), block_bytes(block_bytes) {}

  /// Sums over the pairs of some patches of one image, (1,C,P) and (1,K,P), and all patches of another.
  PairSums block(const Tensor& x, const Tensor& a, const Tensor& y, const Tensor& b) const {
    const Tensor w = pairwise_inner_or_custom(closeness, x, y);
    Tensor delta = pairwise_inner_or_custom(penalty, a, b);
    if constexpr (HasEmbed<Penalty>::value) delta = 1 - delta;
    const Tensor centered = centering == Centering::kNone ? w : center_pairs(w, Centering::kRow);
    return {(centered * delta).sum(), delta.sum(), w.sum()};
  }

  /// Calls f(image, partner, first row, number of rows) for blocks within the memory bound.
  template <class F>
  void for_each_block(const Tensor& x, const Tensor& pairing, F f) const {
    const int64_t row_bytes = x.size(2) * static_cast<int64_t>(x.element_size());
    const int64_t rows = std::max<int64_t>(1, block_bytes / row_bytes);
    const Tensor partners = pairing.to(torch::kCPU);
    for (int64_t i = 0; i < x.size(0); ++i) {
      const auto j = partners[i].template item<int64_t>();
      for (int64_t p = 0; p < x.size(2); p += rows) f(i, j, p, std::min(rows, x.size(2) - p));
    }
  }

  Closeness closeness;
  Penalty penalty;
  Centering centering;
  int64_t block_bytes;
};

/// Pairwise sums whose backward pass computes each block anew instead of keeping it.
template <class Closeness, class Penalty>
struct PairwiseSums : torch::autograd::Function<PairwiseSums<Closeness, Penalty>> {
  using Plan = PairwisePlan<Closeness, Penalty>;
  using Context = torch::autograd::AutogradContext;

  /// @return (3): the members of `PairSums`.
  static Tensor forward(Context* context, const Tensor& x, const Tensor& a, const Tensor& pairing,
                        const c10::intrusive_ptr<Plan>& plan) {
    context->save_for_backward({x, a, pairing});
    context->saved_data["plan"] = c10::IValue::make_capsule(plan);
    Tensor sums = torch::zeros({3}, x.options());
    plan->for_each_block(x, pairing, [&](int64_t i, int64_t j, int64_t p, int64_t rows) {
      const PairSums s = plan->block(x.narrow(0, i, 1).narrow(2, p, rows), a.narrow(0, i, 1).narrow(2, p, rows),
                                     x.narrow(0, j, 1), a.narrow(0, j, 1));
      sums += torch::stack({s.weighted, s.penalty, s.closeness});
    });
    return sums;
  }

  static torch::autograd::variable_list backward(Context* context, torch::autograd::variable_list grads) {
    const auto saved = context->get_saved_variables();
    const Tensor x = saved[0].detach(), a = saved[1].detach(), &pairing = saved[2];
    const auto plan = c10::static_intrusive_pointer_cast<Plan>(context->saved_data["plan"].toCapsule());
    const bool wants_x = context->needs_input_grad(0), wants_a = context->needs_input_grad(1);
    Tensor grad_x = wants_x ? torch::zeros_like(x) : Tensor();
    Tensor grad_a = wants_a ? torch::zeros_like(a) : Tensor();
    plan->for_each_block(x, pairing, [&](int64_t i, int64_t j, int64_t p, int64_t rows) {
      torch::AutoGradMode with_grad(true);
      const auto leaf = [](const Tensor& t, bool wanted) { return t.detach().requires_grad_(wanted); };
      const Tensor xi = leaf(x.narrow(0, i, 1).narrow(2, p, rows), wants_x), xj = leaf(x.narrow(0, j, 1), wants_x);
      const Tensor ai = leaf(a.narrow(0, i, 1).narrow(2, p, rows), wants_a), aj = leaf(a.narrow(0, j, 1), wants_a);
      const PairSums s = plan->block(xi, ai, xj, aj);
      const Tensor sum = (torch::stack({s.weighted, s.penalty, s.closeness}) * grads[0]).sum();
      torch::autograd::variable_list leaves;
      if (wants_x) leaves.insert(leaves.end(), {xi, xj});
      if (wants_a) leaves.insert(leaves.end(), {ai, aj});
      const auto found = torch::autograd::grad({sum}, leaves);
      torch::NoGradGuard no_grad;
      std::size_t next = 0;
      for (Tensor* grad : {&grad_x, &grad_a}) {
        if (!grad->defined()) continue;
        grad->narrow(0, i, 1).narrow(2, p, rows) += found[next++];
        grad->narrow(0, j, 1) += found[next++];
      }
    });
    return {grad_x, grad_a, Tensor(), Tensor()};
  }
};

}  // namespace detail

/// Eq. 4, the smoothness term: close patches with different labels cost, far ones earn.
///
///     within = sum_{i,p,q} (Wc_ii[p,q] - b_within) delta_ii[p,q],   across likewise for image i and its partner.
///
/// A policy gives `embed` ((B,C,N) -> (B,D,N), the quantity being an inner product of embeddings; for the penalty, one
/// minus it), or `pairwise` ((1,C,P), (1,C,Q) -> (1,P,Q)), which is evaluated in blocks.
template <class Closeness = CosineCloseness, class Penalty = CosinePenalty>
class SmoothnessLossImpl : public torch::nn::Cloneable<SmoothnessLossImpl<Closeness, Penalty>> {
 public:
  static constexpr bool kFactorizes = detail::HasEmbed<Closeness>::value && detail::HasEmbed<Penalty>::value;

  /// @throws c10::Error if factorised evaluation is asked of policies that have no `embed`.
  explicit SmoothnessLossImpl(SmoothnessOptions options = {}, Closeness closeness = {}, Penalty penalty = {})
      : options(std::move(options)), closeness_(std::move(closeness)), penalty_(std::move(penalty)) {
    TORCH_CHECK(kFactorizes || this->options.evaluation() != Evaluation::kFactorized,
                "smooseg::SmoothnessLoss: factorised evaluation needs policies that are inner products of embeddings");
    TORCH_CHECK(this->options.block_bytes() > 0, "smooseg::SmoothnessLoss: expected block_bytes > 0, got ",
                this->options.block_bytes());
  }

  void reset() override {}

  void pretty_print(std::ostream& stream) const override {
    stream << "smooseg::SmoothnessLoss(within_threshold=" << options.within_threshold()
           << ", across_threshold=" << options.across_threshold() << ")";
  }

  /// @param features x, (B,C,...), floating; needs no gradient, but gets one where it asks for it.
  /// @param assignments a, (B,K,...), floating, soft assignments of the same patches.
  /// @param pairing (B) int64, image i is compared with image pairing[i] (see `functional::random_pairing`).
  /// @return scalars in float32 (float64 if an input is). Half precision inputs are summed in float32, also under
  ///   autocast.
  /// @throws c10::Error for shapes, dtypes or devices that do not fit.
  SmoothnessTerms forward(const Tensor& features, const Tensor& assignments, const Tensor& pairing) {
    constexpr auto kName = "smooseg::SmoothnessLoss";
    detail::check_map(features, kName, "features", "(B,C,...)");
    detail::check_map(assignments, kName, "assignments", "(B,K,...)");
    detail::check_same_device(features, assignments, kName, "features", "assignments");
    TORCH_CHECK(features.size(0) == assignments.size(0) && features.sizes().slice(2) == assignments.sizes().slice(2),
                kName, ": expected features (B,C,...) and assignments (B,K,...) of equal batch and patches, got ",
                detail::shape_of(features), " and ", detail::shape_of(assignments));
    const Tensor partners = detail::checked_pairing(pairing, features.size(0), features.device(), kName);

    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const bool wide = features.scalar_type() == torch::kFloat64 || assignments.scalar_type() == torch::kFloat64;
    const auto dtype = wide ? torch::kFloat64 : torch::kFloat32;
    const Tensor x = features.flatten(2).to(dtype), a = assignments.flatten(2).to(dtype);

    const auto [within, across] = pair_sums(x, a, partners);
    const double pairs = static_cast<double>(x.size(0) * x.size(2)) * static_cast<double>(x.size(2));
    return {energy(within, options.within_threshold(), pairs), energy(across, options.across_threshold(), pairs),
            within.penalty / pairs, across.penalty / pairs};
  }

  SmoothnessOptions options;

 private:
  std::pair<detail::PairSums, detail::PairSums> pair_sums(const Tensor& x, const Tensor& a, const Tensor& partners) {
    if constexpr (kFactorizes) {
      if (options.evaluation() != Evaluation::kPairwise) {
        const auto moments = detail::patch_moments(closeness_, penalty_, x, a);
        const auto sums = [&](const detail::PatchMoments& others) {
          return detail::factorized_sums(moments, others, x.size(2), options.centering());
        };
        return {sums(moments), sums(moments.select(partners))};
      }
    }
    using Sums = detail::PairwiseSums<Closeness, Penalty>;
    const auto plan =
        c10::make_intrusive<typename Sums::Plan>(closeness_, penalty_, options.centering(), options.block_bytes());
    const auto sums = [&](const Tensor& pairing) {
      const Tensor s = Sums::apply(x, a, pairing, plan);
      return detail::PairSums{s[0], s[1], s[2]};
    };
    return {sums(torch::arange(x.size(0), partners.options())), sums(partners)};
  }

  /// sum (Wc - b) delta; adding the mean of W back to Wc only shifts b.
  Tensor energy(const detail::PairSums& sums, double threshold, double pairs) const {
    const Tensor kept_mean = sums.closeness / pairs;
    const Tensor energy = options.centering() == Centering::kRowKeepMean
                              ? sums.weighted + (kept_mean - threshold) * sums.penalty
                              : sums.weighted - threshold * sums.penalty;
    return options.reduction() == Reduction::kMean ? energy / pairs : energy;
  }

  Closeness closeness_;
  Penalty penalty_;
};

/// Holder of `SmoothnessLossImpl`, as LibTorch's modules have it; `SmoothnessLoss loss(options)` is the paper's.
template <class Closeness = CosineCloseness, class Penalty = CosinePenalty>
class SmoothnessLoss : public torch::nn::ModuleHolder<SmoothnessLossImpl<Closeness, Penalty>> {
 public:
  using torch::nn::ModuleHolder<SmoothnessLossImpl<Closeness, Penalty>>::ModuleHolder;
};

SmoothnessLoss()->SmoothnessLoss<>;
SmoothnessLoss(SmoothnessOptions)->SmoothnessLoss<>;

}  // namespace smooseg
