#pragma once

// Short trainings on features in memory, by which settings are compared: what `smooseg tune` consists of.

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>

#include "features/training_features.hpp"
#include "model/learner.hpp"
#include "model/model.hpp"
#include "smooseg/class_count.hpp"

namespace smooseg::app {

/// The features of some training crops, few enough patches of each that many trainings on them take minutes.
struct TrialData {
  Tensor features;               ///< (M,C,h,w) float32, on the device
  std::optional<Tensor> labels;  ///< (M,h,w) int64, of the patches' middles, -1 where ignored; only to judge a choice
};

/// @param crops how many crops are taken, at random by the settings' seed; all where there are fewer.
/// @param labelled whether the pictures have labels.
TrialData trial_data(TrainingFeatures& features, backbone::Backbone& backbone, const ModelSettings& settings,
                     int64_t crops, bool labelled, int workers, std::ostream& err);

/// Crops that are enough to count classes by.
constexpr int64_t kCropsToCount = 256;

/// The number of classes that the features suggest.
/// @throws c10::Error naming the option where there are too few patches.
ClassCount counted_classes(const TrialData& data, uint64_t seed);

/// A training with settings of its own.
class Trial {
 public:
  /// @param base the model whose backbone the features are of. @param settings what is learned with.
  /// @param features of `TrialData`.
  Trial(const Model& base, const ModelSettings& settings, const Tensor& features);

  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

  /// Goes on until so many steps are done in all. Does nothing where they are.
  void learn(int64_t steps);

  /// The class of each patch, (M,h,w) int64.
  Tensor classes();

  /// The soft assignments of some crops, (m,K,h,w).
  Tensor assignments(int64_t crops);

  const ModelSettings& settings() const { return model_.settings; }
  Thresholds thresholds() const { return learner_.thresholds(); }
  int64_t steps() const { return model_.step; }

 private:
  Tensor logits(const Tensor& features);

  Model model_;
  Tensor features_;
  Learner learner_;
};

}  // namespace smooseg::app
