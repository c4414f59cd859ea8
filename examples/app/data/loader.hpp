#pragma once

// Training crops by number, and their features.

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "data/dataset.hpp"
#include "smooseg/backbone/backbone.hpp"
#include "smooseg/detail/parallel.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

using smooseg::detail::parallel_for;

/// Every training crop of a data set: each picture's shorter side resized to `resolution` (nearest) and its centre
/// cropped to a square, or that of each of its five crops.
class Crops {
 public:
  Crops(const Dataset& dataset, int64_t resolution, bool five, int threads)
      : dataset_(dataset), resolution_(resolution), five_(five), threads_(threads) {}

  int64_t count() const { return static_cast<int64_t>(dataset_.samples.size()) * (five_ ? 5 : 1); }
  int64_t resolution() const { return resolution_; }

  /// @return (3,R,R) float32, normalised.
  Tensor image(int64_t index) const;

  /// @return (B,3,R,R) float32, decoded in parallel.
  Tensor images(const std::vector<int64_t>& indices) const;

 private:
  Dataset dataset_;
  int64_t resolution_;
  bool five_;
  int threads_;
};

/// The crops of a step, a pure function of seed and step, so that a resumed run sees what an uninterrupted one would:
/// epochs of all crops in random order, one after the other.
std::vector<int64_t> batch_indices(int64_t step, int64_t batch, int64_t count, uint64_t seed);

/// A seed for one purpose of one step, spread over all bits (SplitMix64).
uint64_t mix_seed(uint64_t seed, uint64_t purpose, uint64_t step = 0);

/// The frozen backbone's features of crops: computed once and kept in memory where all of them fit into `max_bytes`,
/// else computed whenever asked for.
class FeatureCache {
 public:
  FeatureCache(Crops crops, backbone::Backbone& backbone, torch::Device device, int64_t max_bytes);

  /// @return (B,C,h,w) float32 on the device.
  Tensor features(const std::vector<int64_t>& indices);

 private:
  void fill(int64_t chunk);

  Crops crops_;
  backbone::Backbone& backbone_;
  torch::Device device_;
  Tensor cache_;              // (count,C,h,w), or undefined
  std::vector<bool> filled_;  // by chunk
};

}  // namespace smooseg::app
