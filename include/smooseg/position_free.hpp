#pragma once

// Closeness without positions. Features of vision transformers carry the place of their patch, which makes patches of
// different pictures at one place alike. A blank picture shows nothing but places: what its features differ in can be
// taken out of those of others.

#include <ATen/Functions.h>
#include <torch/types.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>

#include "smooseg/closeness.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/options.hpp"
#include "smooseg/tensor.hpp"

namespace smooseg {
namespace functional {

/// The directions in which features tell a patch's place: the first left singular vectors of a blank picture's features,
/// normalised and less their mean.
///
///     const Tensor blank = backbone->features(torch::zeros({1, 3, 224, 224}));   // the mean colour everywhere
///     EnergyLoss energy(EnergyOptions(), PositionFree{functional::position_basis(blank, 20)});
///
/// @param blank features of one picture of one colour, (1,C,...), floating, of the size that is trained on.
/// @param directions R, 1 to C, and fewer than there are patches.
/// @return U, (C,R), with orthonormal columns, in blank's dtype, float32 at least.
/// @throws c10::Error for other shapes, and where the features do not differ in that many directions.
inline Tensor position_basis(const Tensor& blank, int64_t directions) {
  constexpr auto kName = "smooseg::functional::position_basis";
  detail::check_map(blank, kName, "blank", "(1,C,...)");
  TORCH_CHECK(blank.size(0) == 1, kName, ": expected features of one blank picture, (1,C,...), got ",
              detail::shape_of(blank));
  const torch::NoGradGuard no_grad;
  const Tensor x = blank[0].flatten(1).to(torch::kCPU, torch::kFloat64);  // (C,N)
  const int64_t channels = x.size(0), patches = x.size(1);
  TORCH_CHECK(directions >= 1 && directions <= channels && directions < patches, kName, ": expected 1 to ", channels,
              " directions, and fewer than the ", patches, " patches, got ", directions);
  TORCH_CHECK(x.isfinite().all().item<bool>(), kName, ": the features of the blank picture are not finite");

  const Tensor unit = CosineCloseness{}.embed(x.unsqueeze(0))[0];
  const auto svd = at::linalg_svd(unit - unit.mean(1, /*keepdim=*/true), /*full_matrices=*/false);
  const Tensor &vectors = std::get<0>(svd), &sizes = std::get<1>(svd);
  const auto dtype = at::promote_types(torch::kFloat32, blank.scalar_type());
  // Patches that differ by rounding alone would give directions of nothing.
  const double epsilon =
      dtype == torch::kFloat64 ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
  const double least = 16 * epsilon * std::sqrt(static_cast<double>(patches));
  const auto found = (sizes > least).sum().item<int64_t>();
  TORCH_CHECK(directions <= found, kName, ": expected at most ", found,
              " directions, since the features of the blank picture do not differ in more, got ", directions);
  return vectors.narrow(1, 0, directions).to(blank.device(), dtype).contiguous();
}

/// (I - U U^T) x_p of each patch: what is left of its features without some directions.
/// @param x (B,C,...), floating. @param basis U, (C,R), floating, with orthonormal columns; converted to x's dtype and
///   device.
/// @return as x. Gradients flow to x alone where the basis wants none.
/// @throws c10::Error for other shapes or dtypes.
inline Tensor without_directions(const Tensor& x, const Tensor& basis) {
  constexpr auto kName = "smooseg::functional::without_directions";
  detail::check_map(x, kName, "x", "(B,C,...)");
  detail::check_floating(basis, kName, "basis");
  TORCH_CHECK(basis.dim() == 2 && basis.size(0) == x.size(1) && basis.size(1) > 0, kName,
              ": expected a basis of shape (C,R) for the C = ", x.size(1), " channels of x, got ",
              detail::shape_of(basis));
  const Tensor flat = x.flatten(2), u = basis.to(x.options()).unsqueeze(0).expand({x.size(0), -1, -1});
  return at::baddbmm(flat, u, at::bmm(u.transpose(1, 2), flat), /*beta=*/1, /*alpha=*/-1).view_as(x);
}

}  // namespace functional

/// Eq. 2 without positions, as a policy of `SmoothnessLoss` and `EnergyLoss`: the cosine of what is left of two feature
/// vectors without the directions of `basis`. An inner product of embeddings, so it is evaluated in linear time.
struct PositionFree {
  Tensor basis;  ///< U of `functional::position_basis`, best on the features' device: it is moved there in each call
  double eps = kNormEps;

  /// @param x (B,C,N). @return (B,C,N), unit vectors along dimension 1. @throws c10::Error without a basis for C channels.
  Tensor embed(const Tensor& x) const { return CosineCloseness{eps}.embed(functional::without_directions(x, basis)); }
};

}  // namespace smooseg
