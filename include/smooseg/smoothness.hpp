#pragma once

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/arg.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <ostream>
#include <type_traits>
#include <utility>

#include "smooseg/closeness.hpp"
#include "smooseg/detail/autograd/factorized_sums.hpp"
#include "smooseg/detail/autograd/pairwise_sums.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/host_copy.hpp"
#include "smooseg/exchange.hpp"
#include "smooseg/options.hpp"
#include "smooseg/pairing.hpp"
#include "smooseg/penalty.hpp"

namespace smooseg {

struct SmoothnessOptions {
  /// b of the pairs within an image: closer patches than this are pulled together, others pushed apart.
  TORCH_ARG(double, within_threshold) = kWithinThreshold;
  /// b of the pairs of an image and its partner.
  TORCH_ARG(double, across_threshold) = kAcrossThreshold;
  TORCH_ARG(Centering, centering) = Centering::kRowKeepMean;
  TORCH_ARG(Reduction, reduction) = Reduction::kMean;
  TORCH_ARG(Evaluation, evaluation) = Evaluation::kAuto;
  /// Bound in bytes on each P x Q matrix that pairwise evaluation builds, forward and backward, and on each part of
  /// half-precision features that factorised evaluation converts.
  TORCH_ARG(int64_t, block_bytes) = int64_t{16} << 20;
  /// The processes from all of whose images partners come, and over all of whose pairs the energy is taken; null: this
  /// process alone. Every process has a batch of one size, and all have the same pairing of all images, those of process
  /// 0 first, and get the same terms. The mean of the processes' gradients is then the gradient of these terms. For
  /// factorised evaluation: only the sums over patches travel, O(C K) numbers an image.
  TORCH_ARG(std::shared_ptr<Exchange>, exchange) = nullptr;
};

/// The two halves of Eq. 4 and the mean penalties of their pairs; scalars. Gradients flow through all four.
struct SmoothnessTerms {
  Tensor within, across, within_penalty_mean, across_penalty_mean;
  Tensor total() const { return within + across; }
};

namespace detail {

/// eps of a policy whose embedding is x / max(|x|, eps), which factorised evaluation does on the way; else negative.
template <class Policy>
double normalizing_eps(const Policy& policy) {
  if constexpr (std::is_same_v<Policy, CosineCloseness> || std::is_same_v<Policy, CosinePenalty>) return policy.eps;
  return -1;
}

template <class Closeness, class Penalty>
constexpr bool kFactorizes = kHasEmbed<Closeness>&& kHasEmbed<Penalty>;

template <class Closeness, class Penalty>
void check_options(const SmoothnessOptions& options, const char* function) {
  TORCH_CHECK((kFactorizes<Closeness, Penalty>) || options.evaluation() != Evaluation::kFactorized, function,
              ": factorised evaluation needs policies that are inner products of embeddings (with `embed`)");
  TORCH_CHECK((kFactorizes<Closeness, Penalty> && options.evaluation() != Evaluation::kPairwise) ||
                  options.exchange() == nullptr,
              function, ": an exchange with other processes needs factorised evaluation");
  TORCH_CHECK(options.block_bytes() > 0, function, ": expected block_bytes > 0, got ", options.block_bytes());
}

/// The sums of Eq. 4 over all pairs of patches.
/// @param features (B,C,...). @param a (B,K,N), of the dtype to compute in. @param pairing checked.
/// @return (2,3), within and across: the sums of W delta (W centred), of delta and of raw W.
template <class Closeness, class Penalty>
Tensor pair_sums(const Tensor& features, Tensor a, const Tensor& pairing, const SmoothnessOptions& options,
                 const Closeness& closeness, const Penalty& penalty) {
  const auto dtype = a.scalar_type();
  const bool centered = options.centering() != Centering::kNone;
  Tensor x = features;
  if constexpr (has<CallPrepare, Closeness>()) {
    x = closeness.prepare(x.to(dtype));
    auto expected = features.sizes().vec();
    expected[1] = -1;
    check_policy(x, "prepare", expected, dtype);
  }
  x = x.flatten(2);
  if constexpr (kFactorizes<Closeness, Penalty>) {
    if (options.evaluation() != Evaluation::kPairwise) {
      const double x_eps = normalizing_eps(closeness), a_eps = normalizing_eps(penalty);
      if (x_eps < 0) x = embedded(closeness, x.to(dtype));
      if (a_eps < 0) a = embedded(penalty, a);
      return FactorizedSums::apply(
          x, a, to_device(pairing, x.device()),
          FactorizedSums::Options{x_eps, a_eps, centered, options.block_bytes(), options.exchange().get()});
    }
  }
  x = x.to(dtype);
  check_without_parameters(closeness, x);
  check_without_parameters(penalty, a);
  using Plan = PairwisePlan<Closeness, Penalty>;
  return PairwiseSums<Closeness, Penalty>::apply(
      x, a,
      c10::make_intrusive<Plan>(closeness, penalty, to_device(pairing, x.device()), centered, options.block_bytes()));
}

}  // namespace detail

namespace functional {

/// Eq. 4, the smoothness term: close patches with different labels cost, far ones earn.
///
///     within = sum_{i,p,q} (Wc_ii[p,q] - b_within) delta_ii[p,q],   across likewise for image i and its partner.
///
/// A policy gives `embed` ((B,C,N) -> (B,D,N), the quantity being an inner product of embeddings; for the penalty, one
/// minus it), or `pairwise` ((1,C,P), (1,C,Q) -> (1,P,Q)), which is evaluated in blocks; both const and of the dtype
/// that they are given. A closeness that needs to see whole maps, say to add the patches' places, also has `prepare`
/// ((B,C,...) -> (B,C',...)).
/// @param features x, (B,C,...), floating; needs no gradient, but gets one where it asks for it. A value that is not
///   finite makes every term NaN (see `EnergyOptions::check_finite`).
/// @param assignments a, (B,K,...), floating, soft assignments of the same patches.
/// @param pairing (B) int64, image i is compared with image pairing[i] (see `functional::random_pairing`); with an
///   exchange, of all processes' images. On the CPU its values are checked here; on the features' device, where they
///   cannot be without waiting, by LibTorch's operators.
/// @return scalars in float32 (float64 if an input is). Half precision inputs are summed in float32, also under
///   autocast.
/// @throws c10::Error for shapes, dtypes or devices that do not fit, those that a policy returns among them, or
///   factorised evaluation of policies that have no `embed`.
template <class Closeness = CosineCloseness, class Penalty = CosinePenalty>
SmoothnessTerms smoothness(const Tensor& features, const Tensor& assignments, const Tensor& pairing,
                           const SmoothnessOptions& options = {}, const Closeness& closeness = {},
                           const Penalty& penalty = {}) {
  constexpr auto kName = "smooseg::functional::smoothness";
  detail::check_options<Closeness, Penalty>(options, kName);
  detail::check_map(features, kName, "features", "(B,C,...)");
  detail::check_map(assignments, kName, "assignments", "(B,K,...)");
  detail::check_same_device(features, assignments, kName, "features", "assignments");
  TORCH_CHECK(features.size(0) == assignments.size(0), kName,
              ": expected features (B,C,...) and assignments (B,K,...) of equal batch B, got ",
              detail::shape_of(features), " and ", detail::shape_of(assignments));
  TORCH_CHECK(
      features.sizes().slice(2) == assignments.sizes().slice(2), kName,
      ": expected features and assignments of the same patches, that is, equal dimensions after the second, got ",
      detail::shape_of(features), " and ", detail::shape_of(assignments), "; flatten(2) joins (h,w) to one");
  const int64_t images = features.size(0) * (options.exchange() == nullptr ? 1 : options.exchange()->size());
  detail::check_pairing(pairing, images, features.device(), kName);

  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const bool wide = features.scalar_type() == torch::kFloat64 || assignments.scalar_type() == torch::kFloat64;
  const Tensor a = assignments.flatten(2).to(wide ? torch::kFloat64 : torch::kFloat32);
  const Tensor sums = detail::pair_sums(features, a, pairing, options, closeness, penalty);
  const double pairs = static_cast<double>(images * a.size(2)) * static_cast<double>(a.size(2));
  // sum (Wc - b) delta; adding the mean of W back to Wc only shifts b.
  const auto energy = [&](const Tensor& of, double threshold) {
    const Tensor weighted = of[0], delta = of[1], raw = of[2];
    const Tensor sum = options.centering() == Centering::kRowKeepMean ? weighted + (raw / pairs - threshold) * delta
                                                                      : weighted - threshold * delta;
    return options.reduction() == Reduction::kMean ? sum / pairs : sum;
  };
  return {energy(sums[0], options.within_threshold()), energy(sums[1], options.across_threshold()), sums[0][1] / pairs,
          sums[1][1] / pairs};
}

}  // namespace functional

/// `functional::smoothness` as a module. Its options may be changed at any time and hold from the next call on.
template <class Closeness = CosineCloseness, class Penalty = CosinePenalty>
class SmoothnessLossImpl : public torch::nn::Cloneable<SmoothnessLossImpl<Closeness, Penalty>> {
 public:
  /// @throws c10::Error if factorised evaluation is asked of policies that have no `embed`.
  explicit SmoothnessLossImpl(SmoothnessOptions options_ = {}, Closeness closeness = {}, Penalty penalty = {})
      : options(std::move(options_)), closeness_(std::move(closeness)), penalty_(std::move(penalty)) {
    detail::check_options<Closeness, Penalty>(options, "smooseg::SmoothnessLoss");
  }

  void reset() override {}

  void pretty_print(std::ostream& stream) const override {
    stream << "smooseg::SmoothnessLoss(within_threshold=" << options.within_threshold()
           << ", across_threshold=" << options.across_threshold() << ")";
  }

  /// As `functional::smoothness`.
  SmoothnessTerms forward(const Tensor& features, const Tensor& assignments, const Tensor& pairing) {
    return functional::smoothness(features, assignments, pairing, options, closeness_, penalty_);
  }

  SmoothnessOptions options;

 private:
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
template <class Closeness>
SmoothnessLoss(SmoothnessOptions, Closeness) -> SmoothnessLoss<Closeness>;

}  // namespace smooseg
