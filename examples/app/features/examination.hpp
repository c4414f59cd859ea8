#pragma once

// What a backbone's features of some pictures are like: whether weights and pictures go together shows before a training.

#include <torch/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "smooseg/backbone/backbone.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// Closeness (Eq. 2, not centred) of pairs of patches.
struct ClosenessStatistics {
  static constexpr std::array<double, 7> kQuantiles{0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99};

  double mean = 0, deviation = 0;
  std::array<double, 7> quantiles{};  ///< at `kQuantiles`
};

/// Closeness of pairs of patches, in ascending order: of one picture; of two, at two places; of two, at the same place.
struct ClosenessSamples {
  Tensor within, across, same_place;  ///< (n) float64, on the CPU; the first two are empty for single patches

  /// The value that a share of `sorted` lies below, 0 <= share <= 1.
  static double quantile(const Tensor& sorted, double share);
};

/// Of up to 512 patches of each picture, evenly spaced, each picture with the next.
/// @param features (B,C,h,w), floating, B > 1.
ClosenessSamples closeness_samples(const Tensor& features);

struct Examination {
  std::vector<int64_t> shape;             ///< (C,h,w) of a picture's features
  double lowest = 0, highest = 0;         ///< of all values
  double first_seconds = 0, seconds = 0;  ///< of one picture: the first time, and the least of some more
  int64_t memory = 0;                     ///< bytes of the host that a picture takes beyond what there was before
  ClosenessStatistics within;             ///< of two patches of one picture
  ClosenessStatistics across;             ///< of patches of two pictures, at two places
  ClosenessStatistics same_place;         ///< of patches of two pictures at the same place
  std::vector<std::string> doubts;        ///< what speaks against the features, in words
};

/// @param images (B,3,H,W) float32, normalised, of B > 1 different pictures, on the backbone's device.
/// @throws c10::Error for one picture alone, and where features are not finite.
Examination examine(backbone::Backbone& backbone, const Tensor& images);

}  // namespace smooseg::app
