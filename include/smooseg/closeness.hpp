#pragma once

#include <torch/arg.h>
#include <torch/types.h>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg {

/// What is subtracted from the raw closeness W of two images' patches (the text after Eq. 2).
enum class Centering {
  kNone,         ///< W as it is.
  kRow,          ///< W[p,q] - mean_q W[p,q]: the paper's form.
  kRowKeepMean,  ///< As `kRow`, plus the mean of the whole raw W (over batch and pairs): the published program's form.
};

struct ClosenessOptions {
  TORCH_ARG(Centering, centering) = Centering::kRowKeepMean;
  /// Lower bound of a vector's norm in the division; a zero vector is close to nothing.
  TORCH_ARG(double, eps) = 1e-10;
};

/// Eq. 2 as a policy of `SmoothnessLoss`: closeness is the cosine of two feature vectors, that is, the inner product of
/// the embeddings x / |x|. A policy with `embed` is evaluated in linear time (factorised).
struct CosineCloseness {
  double eps = 1e-10;

  /// @param x (B,C,N). @return (B,C,N) unit vectors along dimension 1.
  Tensor embed(const Tensor& x) const { return x * scale(x); }

  /// The factor that makes `embed` of x, (B,1,N), so that a product need not copy x.
  Tensor scale(const Tensor& x) const { return at::norm(x, 2, {1}, /*keepdim=*/true).clamp_min(eps).reciprocal(); }
};

namespace detail {

/// Centres raw closeness or similarity of pairs (B,P,Q) as `centering` says.
inline Tensor center_pairs(const Tensor& w, Centering centering) {
  if (centering == Centering::kNone) return w;
  const Tensor centered = w - w.mean(-1, /*keepdim=*/true);
  return centering == Centering::kRow ? centered : centered + w.mean();
}

}  // namespace detail

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
  const Tensor w = cosine.embed(x.flatten(2)).transpose(1, 2).matmul(cosine.embed(y.flatten(2)));
  return detail::center_pairs(w, options.centering());
}

}  // namespace functional
}  // namespace smooseg
