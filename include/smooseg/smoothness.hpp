#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/arg.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>
#include <ostream>
#include <type_traits>
#include <utility>

#include "smooseg/closeness.hpp"
#include "smooseg/detail/autograd/factorized_sums.hpp"
#include "smooseg/detail/autograd/pairwise_sums.hpp"
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
  /// Bound in bytes on each P x Q matrix that pairwise evaluation builds, forward and backward, and on each part of
  /// half-precision features that factorised evaluation converts.
  TORCH_ARG(int64_t, block_bytes) = int64_t{16} << 20;
};

/// The two halves of Eq. 4 and the mean penalties of their pairs; scalars. Gradients flow through all four.
struct SmoothnessTerms {
  Tensor within, across, within_penalty_mean, across_penalty_mean;
  Tensor total() const { return within + across; }
};

namespace detail {

template <class Policy, class = void>
struct HasPrepare : std::false_type {};
template <class Policy>
struct HasPrepare<Policy, std::void_t<decltype(std::declval<const Policy&>().prepare(std::declval<const Tensor&>()))>>
    : std::true_type {};

/// eps of a policy whose embedding is x / max(|x|, eps), which factorised evaluation does on the way; else negative.
template <class Policy>
double normalizing_eps(const Policy& policy) {
  if constexpr (std::is_same_v<Policy, CosineCloseness> || std::is_same_v<Policy, CosinePenalty>) return policy.eps;
  return -1;
}

}  // namespace detail

/// Eq. 4, the smoothness term: close patches with different labels cost, far ones earn.
///
///     within = sum_{i,p,q} (Wc_ii[p,q] - b_within) delta_ii[p,q],   across likewise for image i and its partner.
///
/// A policy gives `embed` ((B,C,N) -> (B,D,N), the quantity being an inner product of embeddings; for the penalty, one
/// minus it), or `pairwise` ((1,C,P), (1,C,Q) -> (1,P,Q)), which is evaluated in blocks. A closeness that needs to see
/// whole maps, say to add the patches' places, has `prepare` ((B,C,...) -> (B,C',...)) besides.
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
    const Tensor a = assignments.flatten(2).to(dtype);
    const Tensor sums = pair_sums(features, a, partners);
    const double pairs = static_cast<double>(a.size(0) * a.size(2)) * static_cast<double>(a.size(2));
    return {energy(sums[0], options.within_threshold(), pairs), energy(sums[1], options.across_threshold(), pairs),
            sums[0][1] / pairs, sums[1][1] / pairs};
  }

  SmoothnessOptions options;

 private:
  /// @param features (B,C,...). @param a (B,K,N), of the dtype to compute in.
  /// @return (2,3), within and across: the sums of W delta (W centred), of delta and of raw W.
  Tensor pair_sums(const Tensor& features, Tensor a, const Tensor& partners) const {
    const auto dtype = a.scalar_type();
    const bool centered = options.centering() != Centering::kNone;
    Tensor x = features;
    if constexpr (detail::HasPrepare<Closeness>::value) x = closeness_.prepare(x.to(dtype));
    x = x.flatten(2);
    if constexpr (kFactorizes) {
      if (options.evaluation() != Evaluation::kPairwise) {
        const double x_eps = detail::normalizing_eps(closeness_), a_eps = detail::normalizing_eps(penalty_);
        if (x_eps < 0) x = closeness_.embed(x.to(dtype));
        if (a_eps < 0) a = penalty_.embed(a);
        return detail::FactorizedSums::apply(
            x, a, partners, detail::FactorizedSums::Options{x_eps, a_eps, centered, options.block_bytes()});
      }
    }
    using Plan = detail::PairwisePlan<Closeness, Penalty>;
    return detail::PairwiseSums<Closeness, Penalty>::apply(
        x.to(dtype), a, partners, c10::make_intrusive<Plan>(closeness_, penalty_, centered, options.block_bytes()));
  }

  /// sum (Wc - b) delta; adding the mean of W back to Wc only shifts b.
  Tensor energy(const Tensor& sums, double threshold, double pairs) const {
    const Tensor weighted = sums[0], penalty = sums[1], closeness = sums[2];
    const Tensor energy = options.centering() == Centering::kRowKeepMean
                              ? weighted + (closeness / pairs - threshold) * penalty
                              : weighted - threshold * penalty;
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
