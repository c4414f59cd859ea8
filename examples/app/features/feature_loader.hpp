#pragma once

// The frozen backbone's features of training crops, batch by batch.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <vector>

#include "data/crops.hpp"
#include "features/feature_cache.hpp"
#include "smooseg/backbone/backbone.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "support/pipeline.hpp"
#include "support/processes.hpp"

namespace smooseg::app {

/// Where features come from and how they are kept. The crops and the backbone must outlive the loader.
struct FeatureSource {
  const Crops& crops;
  backbone::Backbone& backbone;
  torch::Device device;
  torch::ScalarType dtype = torch::kFloat32;  ///< float32 or float16, to which all features are rounded
  int64_t max_bytes = 0;                      ///< of features kept in memory, on the device: all of them or none
  int workers = 1;                            ///< threads that decode pictures and read features ahead
  std::shared_ptr<Processes> processes = Processes::alone();  ///< that fill a cache together
};

/// Features of crops, computed in fixed groups of neighbours: the rounding of a batched product may depend on what is
/// in the batch, and features must have the same bits whoever asks for them, in whatever order.
class GroupedFeatures {
 public:
  static constexpr int64_t kGroupCrops = 16;

  /// @param groups numbers of the groups to compute, each of crops 16 g, ..., 16 g + 15.
  GroupedFeatures(const FeatureSource& source, std::vector<int64_t> groups);

  /// The next group's features (n,C,h,w), in the source's dtype, on its device.
  Tensor next();

 private:
  FeatureSource source_;
  std::vector<int64_t> groups_;
  Pipeline<Tensor> images_;
};

/// (C,h,w) of a crop's features.
std::vector<int64_t> feature_shape(const FeatureSource& source);

/// Computes and stores what the cache lacks. @throws as `FeatureCache::fill`, and where a feature is too large for
/// float16.
void fill_cache(FeatureCache& cache, const FeatureSource& source, std::ostream& err);

/// The features of one batch of crops after another. They are kept in memory where all of them fit into `max_bytes`;
/// else they are read ahead from the cache where there is one, else computed from pictures that are decoded ahead. In
/// memory or from the cache the same crop has the same bits.
class FeatureLoader {
 public:
  /// @param cache filled if it is not; null: none.
  /// @param batches number of batches that will be asked for. @param batch the crops of each, a pure function, called
  ///   from several threads.
  FeatureLoader(const FeatureSource& source, std::unique_ptr<FeatureCache> cache, int64_t batches,
                std::function<std::vector<int64_t>(int64_t)> batch, std::ostream& err);

  FeatureLoader(const FeatureLoader&) = delete;
  FeatureLoader& operator=(const FeatureLoader&) = delete;

  /// The next batch's features, (B,C,h,w) float32 on the device.
  /// @throws what decoding and the backbone throw.
  Tensor next();

 private:
  void copy_cache();
  void plan_groups(int64_t batches);
  void read_ahead(int64_t batches);
  Tensor from_memory(const std::vector<int64_t>& crops);

  FeatureSource source_;
  std::unique_ptr<FeatureCache> cache_;
  std::function<std::vector<int64_t>(int64_t)> batch_;
  int64_t taken_ = 0;

  Tensor memory_;             // (count,C,h,w), or undefined
  std::vector<bool> filled_;  // the groups that are in memory
  std::vector<int64_t> groups_in_order_of_need_;
  std::size_t groups_done_ = 0;
  std::unique_ptr<GroupedFeatures> computed_;

  std::unique_ptr<Pipeline<Tensor>> ahead_;  // batches of features from the cache, or of images
};

}  // namespace smooseg::app
