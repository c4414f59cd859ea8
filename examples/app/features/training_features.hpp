#pragma once

// The frozen part of a model: its backbone made ready, and its features of training crops.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "data/crops.hpp"
#include "data/feature_files.hpp"
#include "features/feature_loader.hpp"
#include "settings/model.hpp"
#include "settings/runtime.hpp"
#include "support/processes.hpp"

namespace smooseg::app {

/// The file of the backbone's weights: `given` if not empty, else one that is kept; empty for a backbone without. Of an
/// exported module it is the module.
/// @throws std::runtime_error naming the option where backbone, weights and features do not go together.
std::string chosen_weights(const ModelSettings& settings, const std::string& given);

/// The training crops of a data set that the settings want.
Crops crops_of(const Dataset& dataset, const ModelSettings& model, const std::optional<FeatureFiles>& files = {});

/// The training crops of a data set and a backbone's features of them, as the settings want them.
class TrainingFeatures {
 public:
  /// @param files for the backbone "features", and for no other.
  /// @param processes that share what is computed once.
  /// @throws std::runtime_error naming the option where settings do not go with features of files; as `Crops`.
  TrainingFeatures(const Dataset& dataset, const ModelSettings& model, const FeatureSettings& settings,
                   torch::Device device, int workers, const std::optional<FeatureFiles>& files = {},
                   std::shared_ptr<Processes> processes = Processes::alone());

  const Crops& crops() const { return crops_; }
  const std::shared_ptr<Processes>& processes() const { return processes_; }

  /// What the contents of the pictures, in their order, are told by: 32 hexadecimal digits.
  std::string data_hash();

  /// Gives a new backbone its weights (which an exported module has), or lets it learn from the crops what it needs
  /// instead; leaves it on the device.
  /// @param weights of `chosen_weights`.
  /// @throws std::runtime_error naming the option where crops are not made of whole patches, or not of the size that an
  ///   exported module takes.
  void prepare(backbone::Backbone& backbone, const std::string& weights, std::ostream& err) const;

  /// The directions in which the features of a prepared backbone tell a patch's place, (C,R), as `--debias` wants them;
  /// undefined where it wants none.
  /// @throws c10::Error naming the option where there are not so many.
  Tensor position_basis(backbone::Backbone& backbone) const;

  /// Computes and stores what the cache lacks of the backbone's features.
  void fill_cache(backbone::Backbone& backbone, std::ostream& err);

  /// The features of one batch of crops after another, through the cache if there is one. This object and the backbone
  /// must outlive the loader.
  /// @param count number of batches, and the crops of each, as `FeatureLoader` takes them.
  FeatureLoader loader(backbone::Backbone& backbone, int64_t count, std::function<std::vector<int64_t>(int64_t)> batch,
                       std::ostream& err);

 private:
  const std::vector<Hash>& picture_hashes();
  FeatureSource source(backbone::Backbone& backbone) const;
  std::unique_ptr<FeatureCache> cache(const FeatureSource& source);

  Crops crops_;
  ModelSettings model_;
  FeatureSettings settings_;
  torch::Device device_;
  int workers_;
  std::shared_ptr<Processes> processes_;
  std::vector<Hash> picture_hashes_;  // empty until they are needed
};

}  // namespace smooseg::app
