#pragma once

#include <ATen/Functions.h>
#include <torch/arg.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "smooseg/detail/autograd/unit_vectors.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/options.hpp"

namespace smooseg {

struct ClosenessOptions {
  TORCH_ARG(Centering, centering) = Centering::kRowKeepMean;
  /// Lower bound of a vector's norm in the division.
  TORCH_ARG(double, eps) = kNormEps;
};

/// Eq. 2 as a policy of `SmoothnessLoss`: closeness is the cosine of two feature vectors, that is, the inner product of
/// the embeddings x / |x|. A policy with `embed` is evaluated in linear time (factorised).
struct CosineCloseness {
  double eps = kNormEps;

  /// @param x (B,C,N). @return (B,C,N) unit vectors along dimension 1.
  Tensor embed(const Tensor& x) const { return detail::UnitVectors::apply(x, eps); }
};

/// exp(-|x_p - x_q|^2 / (2 bandwidth^2)), a policy of `SmoothnessLoss`: in (0,1], pairwise.
struct GaussianCloseness {
  double bandwidth = 1;  ///< In units of the features.

  /// @param x (1,C,P). @param y (1,C,Q). @return (1,P,Q).
  Tensor pairwise(const Tensor& x, const Tensor& y) const {
    const Tensor squares = x.square().sum(1).unsqueeze(2) + y.square().sum(1).unsqueeze(1);
    const Tensor distances = at::baddbmm(squares, x.transpose(1, 2), y, /*beta=*/1, /*alpha=*/-2);
    return distances.clamp_min(0).mul(-0.5 / (bandwidth * bandwidth)).exp();
  }
};

/// A Gaussian on features and on the patches' places, the bilateral kernel of dense CRFs:
/// exp(-|x_p - x_q|^2 / (2 bandwidth^2) - |p - q|^2 / (2 position_bandwidth^2)). Pairwise.
struct BilateralCloseness {
  double bandwidth = 1;           ///< In units of the features.
  double position_bandwidth = 8;  ///< In patches.

  /// The features and, as further channels, the place of each patch, both in units of their bandwidths.
  /// @param features (B,C,...). @return (B,C+d,...), d being the number of dimensions after the second.
  Tensor prepare(const Tensor& features) const {
    std::vector<Tensor> channels{features / bandwidth};
    const auto sizes = features.sizes().slice(2);
    std::vector<int64_t> expanded = features.sizes().vec();
    expanded[1] = 1;
    for (std::size_t d = 0; d < sizes.size(); ++d) {
      std::vector<int64_t> along(expanded.size(), 1);
      along[d + 2] = sizes[d];
      const Tensor places = torch::arange(sizes[d], features.options().requires_grad(false)) / position_bandwidth;
      channels.push_back(places.view(along).expand(expanded));
    }
    return at::cat(channels, 1);
  }

  /// @param x (1,C+d,P), prepared. @param y (1,C+d,Q). @return (1,P,Q).
  Tensor pairwise(const Tensor& x, const Tensor& y) const { return GaussianCloseness{}.pairwise(x, y); }
};

namespace functional {

/// Eq. 2: closeness of every patch of `x` to every patch of `y`, image by image: cos(x_p, y_q), centred as the options
/// say. Builds the P x Q matrices; the loss does not need them (see `SmoothnessLoss`).
/// @param x (B,C,...), floating. @param y (B,C,...), same dtype and device.
/// @return (B,P,Q), P and Q being the products of the dimensions after the second.
/// @throws c10::Error for other shapes, dtypes or devices.
inline Tensor closeness(const Tensor& x, const Tensor& y, const ClosenessOptions& options = {}) {
  constexpr auto kName = "smooseg::functional::closeness";
  detail::check_paired_maps(x, y, kName, "x", "y", "(B,C,...)");
  const CosineCloseness cosine{options.eps()};
  const Tensor u = cosine.embed(x.flatten(2)).transpose(1, 2), v = cosine.embed(y.flatten(2));
  if (options.centering() == Centering::kNone) return u.matmul(v);
  // A row of W has the mean u_p . mean(v): centring the rows is centring v.
  const Tensor mean = v.mean(2, /*keepdim=*/true), centered = v - mean;
  if (options.centering() == Centering::kRow) return u.matmul(centered);
  const Tensor mean_of_all = u.mean(1, /*keepdim=*/true).matmul(mean).mean();
  return at::baddbmm(mean_of_all.view({1, 1, 1}), u, centered);
}

}  // namespace functional
}  // namespace smooseg
