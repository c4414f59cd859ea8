#pragma once

// The methods that SmooSeg is compared with, as heads of a segmenter: with a projector and prototypes of their own they
// go through the very code that SmooSeg's labels come from, and into model files.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <ostream>

#include "features/training_features.hpp"
#include "settings/baselines.hpp"
#include "settings/model.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

/// What a segmenter is made of beside its backbone.
struct SegmenterHead {
  Projector projector{nullptr};
  PrototypePredictor predictor{nullptr};
};

/// What baselines learn from: a frozen backbone's features of training crops.
struct BaselineSource {
  const ModelSettings& settings;  ///< classes, batch, embed_dim, dropout and seed count here
  backbone::Backbone& backbone;
  TrainingFeatures& features;
  torch::Device device;
  std::ostream& err;
};

/// k-means on the features, the paper's rows 'DINO': the identity for a projector, and cluster centres for prototypes.
SegmenterHead kmeans_head(const BaselineSource& source);

/// STEGO: a projector that learns by its correspondence loss, and k-means on the code.
SegmenterHead stego_head(const BaselineSource& source, const BaselineSettings& settings, int64_t iterations);

/// The linear probe: its logits for a code, and the axes for prototypes, so that the nearest one is the class with the
/// highest logit. With the CRF the logits count by their cosines, as all methods' do.
/// @param classes K. @param labels gives the label maps of crops, (B,H,W) int64, -1 where ignored.
SegmenterHead linear_head(const BaselineSource& source, const BaselineSettings& settings, int64_t iterations,
                          int64_t classes, const std::function<Tensor(const std::vector<int64_t>&)>& labels);

}  // namespace smooseg::app
