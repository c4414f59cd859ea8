#pragma once

// STEGO, the method that the paper compares with the most (Hamilton, Zhang, Hariharan, Snavely and Freeman, "Unsupervised
// Semantic Segmentation by Distilling Feature Correspondences", 2022), written from its equations: the loss, and what
// training with it needs. The code comes from a projector such as `smooseg::Projector`; the labels from k-means on it.

#include <ATen/Functions.h>
#include <ATen/core/Generator.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "smooseg/closeness.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/host_copy.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/pairing.hpp"

namespace smooseg::baselines {

/// The correspondence loss: where the features of two patches are closer than the shift b, their codes are drawn
/// together, elsewhere pushed apart, until they are at right angles.
///
///     loss = -mean_{i,p,q} (Fc_i[p,q] - b) max(S_i[p,q], 0)
///
/// with F = cos(features_a, features_b), S = cos(code_a, code_b), and Fc = F less the mean of each of its rows ('spatial
/// centring'), to which the mean of all pairs is added back: `Centering::kRowKeepMean`.
/// @param features_a, features_b (B,C,...), floating, of one dtype: image i of a is compared with image i of b. They get
///   no gradient.
/// @param code_a, code_b (B,D,...), floating, of the same patches.
/// @return scalar, of at least float32, also under autocast.
/// @throws c10::Error for shapes, dtypes or devices that do not fit.
inline Tensor stego_correspondence(const Tensor& features_a, const Tensor& features_b, const Tensor& code_a,
                                   const Tensor& code_b, double shift) {
  constexpr auto kName = "smooseg::baselines::stego_correspondence";
  detail::check_paired_maps(features_a, features_b, kName, "features_a", "features_b", "(B,C,...)");
  detail::check_paired_maps(code_a, code_b, kName, "code_a", "code_b", "(B,D,...)");
  const auto check_patches = [&](const Tensor& features, const Tensor& code, const char* which) {
    TORCH_CHECK(features.size(0) == code.size(0) && features.sizes().slice(2) == code.sizes().slice(2), kName,
                ": expected features_", which, " (B,C,...) and code_", which, " (B,D,...) of the same patches, got ",
                detail::shape_of(features), " and ", detail::shape_of(code));
  };
  check_patches(features_a, code_a, "a");
  check_patches(features_b, code_b, "b");
  detail::check_same_device(features_a, code_a, kName, "features_a", "code_a");

  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto wide = [](const Tensor& t) { return t.to(at::promote_types(torch::kFloat32, t.scalar_type())); };
  const Tensor closeness = functional::closeness(wide(features_a.detach()), wide(features_b.detach()));
  const Tensor similarity =
      functional::closeness(wide(code_a), wide(code_b), ClosenessOptions().centering(Centering::kNone));
  return -((closeness - shift) * similarity.clamp_min(0)).mean();
}

/// Options for `stego_loss`: of each kind of pairs the weight lambda and the shift b. Both belong to the scale of the
/// closeness, and so to backbone and data: with other features they must be chosen anew.
struct StegoOptions {
  /// Of an image and itself.
  TORCH_ARG(double, self_weight) = 1.0;
  TORCH_ARG(double, self_shift) = 0.46;
  /// Of an image and one of its nearest neighbours.
  TORCH_ARG(double, neighbor_weight) = 0.58;
  TORCH_ARG(double, neighbor_shift) = 0.18;
  /// Of an image and a random other one.
  TORCH_ARG(double, random_weight) = 0.91;
  TORCH_ARG(double, random_shift) = 0.31;

 public:
  /// STEGO's settings for Cityscapes with DINO's ViT; also the defaults.
  static StegoOptions cityscapes() { return {}; }
  /// STEGO's settings for COCOStuff with DINO's ViT.
  static StegoOptions cocostuff() {
    return StegoOptions()
        .self_weight(0.10)
        .self_shift(0.12)
        .neighbor_weight(1.00)
        .neighbor_shift(0.20)
        .random_weight(0.15)
        .random_shift(1.00);
  }
};

/// Features (B,C,...) and code (B,D,...) of the same patches.
struct StegoMaps {
  Tensor features, code;
};

/// The loss of each kind of pairs, not weighted, and `total`, their weighted sum; scalars.
struct StegoTerms {
  Tensor total, self, neighbor, random;
};

/// STEGO's objective: lambda_self L(x,x,b_self) + lambda_neighbour L(x,x_neighbour,b_neighbour) + lambda_random
/// L(x,x_random,b_random), L being `stego_correspondence`.
/// @param images B images. @param neighbors of each one of its nearest neighbours (see `nearest_neighbors`).
/// @param pairing (B) int64, image i is compared with image pairing[i] (see `functional::random_pairing`).
/// @throws c10::Error for shapes, dtypes or devices that do not fit.
inline StegoTerms stego_loss(const StegoMaps& images, const StegoMaps& neighbors, const Tensor& pairing,
                             const StegoOptions& options = {}) {
  constexpr auto kName = "smooseg::baselines::stego_loss";
  detail::check_map(images.features, kName, "images.features", "(B,C,...)");
  detail::check_map(images.code, kName, "images.code", "(B,D,...)");
  detail::check_pairing(pairing, images.features.size(0), images.features.device(), kName);
  const Tensor partners = detail::to_device(pairing, images.features.device());
  const auto correspondence = [&](const StegoMaps& others, double shift) {
    return stego_correspondence(images.features, others.features, images.code, others.code, shift);
  };
  StegoTerms terms;
  terms.self = correspondence(images, options.self_shift());
  terms.neighbor = correspondence(neighbors, options.neighbor_shift());
  terms.random = correspondence({images.features.index_select(0, partners), images.code.index_select(0, partners)},
                                options.random_shift());
  terms.total = options.self_weight() * terms.self + options.neighbor_weight() * terms.neighbor +
                options.random_weight() * terms.random;
  return terms;
}

/// The nearest neighbours of images by the cosine of their mean pooled features. Holds the similarities of no more than
/// some of the images at a time.
/// @param pooled (N,C), floating: of each image the mean of its patches' features.
/// @param count neighbours of each, 1 to N - 1.
/// @return (N,count) int64, on the device of `pooled`: indices of other images, the nearest first.
/// @throws c10::Error for other shapes or dtypes, and for a count out of range.
inline Tensor nearest_neighbors(const Tensor& pooled, int64_t count) {
  constexpr auto kName = "smooseg::baselines::nearest_neighbors";
  constexpr int64_t kElementsAtOnce = int64_t{1} << 24;
  detail::check_floating(pooled, kName, "pooled");
  TORCH_CHECK(pooled.dim() == 2 && pooled.numel() > 0, kName,
              ": expected pooled of shape (N,C) with no dimension of size 0, got ", detail::shape_of(pooled));
  const int64_t images = pooled.size(0);
  TORCH_CHECK(count >= 1 && count < images, kName, ": expected a count of 1 to ", images - 1, ", one less than the ",
              images, " images, got ", count);
  const torch::NoGradGuard no_grad;
  const Tensor unit = CosineCloseness{}.embed(pooled.t().unsqueeze(0)).squeeze(0);  // (C,N)
  const int64_t rows = std::max<int64_t>(1, kElementsAtOnce / images);
  std::vector<Tensor> parts;
  for (int64_t first = 0; first < images; first += rows) {
    const Tensor part = unit.slice(1, first, std::min(first + rows, images));
    const Tensor similarities = at::mm(part.t(), unit);
    similarities.diagonal(first).fill_(-2);  // below any cosine: nobody is a neighbour of its own
    parts.push_back(std::get<1>(similarities.topk(count, 1)));
  }
  return at::cat(parts);
}

/// Of each image some patches, drawn at random, each as likely as any other and possibly several times: the loss takes
/// pairs, of which a sample is enough.
/// @param features (B,C,...), floating. @param count patches of each image, at least 1.
/// @param generator source of randomness on the features' device; the default one where none is given.
/// @return (B,C,1,count), which a `Projector` takes.
/// @throws c10::Error for other shapes or dtypes, or a count below 1.
inline Tensor random_patches(const Tensor& features, int64_t count, std::optional<at::Generator> generator = {}) {
  constexpr auto kName = "smooseg::baselines::random_patches";
  detail::check_map(features, kName, "features", "(B,C,...)");
  TORCH_CHECK(count >= 1, kName, ": expected a count of at least 1, got ", count);
  const Tensor flat = features.flatten(2);
  const Tensor patches = at::randint(flat.size(2), {flat.size(0), 1, count}, detail::torch_generator(generator),
                                     flat.options().dtype(torch::kInt64).requires_grad(false));
  return flat.gather(2, patches.expand({-1, flat.size(1), -1})).unsqueeze(2);
}

}  // namespace smooseg::baselines
