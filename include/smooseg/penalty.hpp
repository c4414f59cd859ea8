#pragma once

#include <ATen/Functions.h>
#include <torch/arg.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

#include "smooseg/closeness.hpp"
#include "smooseg/detail/autograd/unit_vectors.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg {

/// Eq. 3 as a policy of `SmoothnessLoss`: the penalty is 1 - cos(a_p, a_q), one minus the inner product of the
/// embeddings a / |a|.
struct CosinePenalty {
  double eps = kNormEps;

  /// @param a (B,K,N). @return (B,K,N) unit vectors along dimension 1.
  Tensor embed(const Tensor& a) const { return detail::UnitVectors::apply(a, eps); }
};

struct PenaltyHistogramOptions {
  /// Number of bins of equal width over [0,1].
  TORCH_ARG(int64_t, bins) = 100;
  /// How many pairs to draw, with repetition; 0: count every pair.
  TORCH_ARG(int64_t, samples) = 0;
  /// Bound in bytes on the temporaries.
  TORCH_ARG(int64_t, block_bytes) = int64_t{16} << 20;
};

struct PenaltyHistogram {
  Tensor edges;   ///< (bins + 1) float64, from 0 to 1.
  Tensor counts;  ///< (bins) int64: pairs with edges[i] <= delta < edges[i+1]; 1 itself is in the last bin.
};

namespace functional {

/// Eq. 3: how much the labels of two patches differ: 1 - cos(a_p, b_q), 0 for equal soft assignments and 1 for disjoint
/// ones.
/// @param a (B,K,...) soft assignments, floating. @param b (B,K,...), same dtype and device.
/// @return (B,P,Q), P and Q being the products of the dimensions after the second.
/// @throws c10::Error for other shapes, dtypes or devices.
inline Tensor label_penalty(const Tensor& a, const Tensor& b) {
  detail::check_paired_maps(a, b, "smooseg::functional::label_penalty", "a", "b", "(B,K,...)");
  const CosinePenalty cosine;
  const Tensor u = cosine.embed(a.flatten(2)).transpose(1, 2), v = cosine.embed(b.flatten(2));
  return at::baddbmm(torch::ones({1, 1, 1}, u.options().requires_grad(false)), u, v, /*beta=*/1, /*alpha=*/-1);
}

/// Appendix A: how the penalty is distributed over the pairs of patches within images, the N^2 pairs (p,q) of each. Its
/// mean is `SmoothnessTerms::within_penalty_mean`.
/// @param assignments (B,K,...), floating, none negative.
/// @param generator source of randomness (CPU) where pairs are sampled; the default one where none is given.
/// @throws c10::Error for other shapes or dtypes, negative or non-finite assignments, or options out of range.
inline PenaltyHistogram penalty_histogram(const Tensor& assignments, const PenaltyHistogramOptions& options = {},
                                          std::optional<at::Generator> generator = {}) {
  constexpr auto kName = "smooseg::functional::penalty_histogram";
  detail::check_map(assignments, kName, "assignments", "(B,K,...)");
  TORCH_CHECK(options.bins() >= 1 && options.samples() >= 0 && options.block_bytes() >= 1, kName,
              ": expected bins >= 1, samples >= 0 and block_bytes >= 1, got ", options.bins(), ", ", options.samples(),
              " and ", options.block_bytes());
  const torch::NoGradGuard no_grad;
  const auto dtype = at::promote_types(torch::kFloat32, assignments.scalar_type());
  const Tensor u = CosinePenalty{}.embed(assignments.to(dtype).flatten(2));
  TORCH_CHECK(u.min().item<double>() >= 0 && std::isfinite(u.sum().item<double>()), kName,
              ": expected assignments that are finite and not negative");

  const int64_t bins = options.bins(), patches = u.size(2);
  constexpr int64_t kBytesPerPair = 32;  // cosine, penalty, bin and indices
  Tensor counts = torch::zeros({bins}, u.options().dtype(torch::kInt64));
  const auto count = [&](const Tensor& cosines) {
    const Tensor bin = ((1 - cosines) * static_cast<double>(bins)).to(torch::kInt64).clamp_(0, bins - 1);
    counts += at::bincount(bin.flatten(), /*weights=*/{}, bins);
  };
  const auto vectors_within = [&](int64_t bytes_each) {
    return std::max<int64_t>(1, options.block_bytes() / bytes_each);
  };
  if (options.samples() == 0) {
    const int64_t rows = vectors_within(patches * kBytesPerPair);
    for (int64_t i = 0; i < u.size(0); ++i) {
      for (int64_t p = 0; p < patches; p += rows) {
        count(u[i].narrow(1, p, std::min(rows, patches - p)).t().matmul(u[i]));
      }
    }
  } else {
    const Tensor rows = u.transpose(1, 2).flatten(0, 1);  // (B N,K)
    const int64_t block = vectors_within(2 * kBytesPerPair + 3 * u.size(1) * static_cast<int64_t>(u.element_size()));
    for (int64_t first = 0; first < options.samples(); first += block) {
      const auto draw = [&](int64_t below) {
        const int64_t many = std::min(block, options.samples() - first);
        return at::randint(below, {many}, detail::torch_generator(generator), torch::kInt64).to(u.device());
      };
      const Tensor image = draw(u.size(0)) * patches, p = image + draw(patches), q = image + draw(patches);
      count((rows.index_select(0, p) * rows.index_select(0, q)).sum(1));
    }
  }
  return {torch::linspace(0, 1, bins + 1, torch::kFloat64), counts.to(torch::kCPU)};
}

}  // namespace functional
}  // namespace smooseg
