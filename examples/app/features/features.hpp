#pragma once

// The frozen part of a model: its backbone made ready, and its features of training crops.

#include <CLI/App.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "data/loader.hpp"
#include "features/feature_loader.hpp"
#include "settings/model.hpp"
#include "settings/runtime.hpp"

namespace smooseg::app {

struct FeatureSettings {
  std::string cache;  ///< folder; empty: none
  double cache_memory = 2;
  int workers = 0;  ///< 0: as many as threads
};

void add_options(CLI::App& command, FeatureSettings& settings);

/// The number of worker threads.
int worker_count(const FeatureSettings& settings, const RuntimeSettings& runtime);

/// The training crops of a data set as the model's settings want them.
Crops training_crops(const Dataset& dataset, const ModelSettings& settings);

/// What the contents of these pictures, in their order, are told by: 32 hexadecimal digits.
std::string data_hash(const std::vector<Hash>& pictures);

/// The file of the backbone's weights: `given` if not empty, else one that is kept; empty for a backbone without.
/// @throws std::runtime_error naming the option where backbone, weights and features do not go together.
std::string chosen_weights(const ModelSettings& settings, const std::string& given);

/// Gives a new model's backbone its weights, or its statistics of the crops; leaves it on the device.
void prepare_backbone(backbone::Backbone& backbone, const ModelSettings& settings, const std::string& weights,
                      const Crops& crops, torch::Device device, int workers, std::ostream& err);

/// @throws std::runtime_error naming the option where crops are not made of whole patches.
void check_patches(const ModelSettings& settings, const backbone::Backbone& backbone);

/// The features of a model's backbone as its settings want them. The arguments must outlive the source.
FeatureSource feature_source(const ModelSettings& settings, const FeatureSettings& features, const Crops& crops,
                             backbone::Backbone& backbone, torch::Device device, int workers);

/// The cache in the folder of `--cache`; null where none is asked for.
/// @param pictures contents of the pictures, as `Crops::picture_hashes` gives them.
std::unique_ptr<FeatureCache> feature_cache(const ModelSettings& settings, const FeatureSettings& features,
                                            const FeatureSource& source, const std::vector<Hash>& pictures,
                                            int threads);

}  // namespace smooseg::app
