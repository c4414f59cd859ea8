#pragma once

// Training crops by number, and the order in which they are taken.

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "data/dataset.hpp"
#include "data/feature_files.hpp"
#include "data/transforms.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "support/hash.hpp"

namespace smooseg::app {

/// Every training crop of a data set: each picture's shorter side resized to `resolution` (nearest) and its centre
/// cropped to a square, or that of each of its five crops.
class Crops {
 public:
  Crops(const Dataset& dataset, int64_t resolution, bool five)
      : dataset_(dataset), resolution_(resolution), five_(five) {}

  /// Features in the place of pictures: of each map the middle square, whose side is the map's shorter one and the same
  /// for all; `resolution` is its number of cells.
  /// @throws std::runtime_error as `FeatureFiles::read` for the first picture, and where two pictures share a file.
  Crops(const Dataset& dataset, const FeatureFiles& features);

  int64_t count() const { return static_cast<int64_t>(dataset_.samples.size()) * per_picture(); }
  int64_t resolution() const { return resolution_; }

  /// Number of channels of each crop: 3, or that of the features.
  int64_t channels() const { return channels_; }

  /// Which picture a crop is of, and how many crops each picture has.
  int64_t picture_of(int64_t crop) const { return crop / per_picture(); }
  int64_t per_picture() const { return five_ ? Transform::kFive : 1; }

  /// Crops in a row that are of one picture take one pass through its file. Uses the calling thread alone.
  /// @param with the normalisation of the backbone that they are for; not looked at for features.
  /// @return (B,3,R,R) float32, normalised; (B,C,R,R) of features.
  /// @throws std::runtime_error beginning with the path of the picture, or of its features, where it cannot be read or
  ///   has no such crop.
  Tensor images(const std::vector<int64_t>& crops, const Normalization& with) const;

  /// The label maps of crops of labelled pictures.
  /// @param side their side in pixels; of pictures the resolution suits, features have no pixels of their own.
  /// @return (B,side,side) int64, -1 where ignored.
  /// @throws std::runtime_error as `load_sample`.
  Tensor labels(const std::vector<int64_t>& crops, int64_t side, int threads) const;

  /// The contents of each picture's file, or of its features, all of which are read and checked for it.
  /// @throws std::runtime_error naming a file that cannot be read.
  std::vector<Hash> picture_hashes(int threads) const;

 private:
  /// The features of a picture's middle square.
  Tensor square_of(int64_t picture) const;

  Dataset dataset_;
  std::optional<FeatureFiles> features_;
  int64_t resolution_;
  bool five_;
  int64_t channels_ = 3;
};

/// The crops of a step, a pure function of seed and step, so that a resumed run sees what an uninterrupted one would:
/// epochs of all crops in random order, one after the other.
std::vector<int64_t> batch_indices(int64_t step, int64_t batch, int64_t count, uint64_t seed);

}  // namespace smooseg::app
