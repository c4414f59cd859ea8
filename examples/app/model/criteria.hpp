#pragma once

// How good a division of patches into classes is, as far as that can be told without labels. All criteria look at the
// backbone's features, so that models can be compared that have spaces of their own.

#include <torch/types.h>

#include <cstdint>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

struct PartitionCriteria {
  /// Entropy of the classes' shares of the patches over that of K equal ones, 0..1.
  double entropy = 0;
  /// Share of pairs of neighbouring patches that are of one class, less what the classes' shares alone would give, over
  /// what is left (Cohen's kappa), at most 1.
  double agreement = 0;
  /// The part of the unit features' variance that lies between the classes' means, 0..1.
  double between = 0;
  /// Mean silhouette under the cosine distance (Rousseeuw, 1987), each patch counted among its own class, -1..1.
  double silhouette = 0;
  int64_t classes_in_use = 0;  ///< classes of at least a twentieth of an equal share
};

/// @param features (M,C,h,w), floating. @param classes (M,h,w) int64, the class of each patch, below K.
/// @throws c10::Error for shapes that do not fit.
PartitionCriteria partition_criteria(const Tensor& features, const Tensor& classes, int64_t num_classes);

}  // namespace smooseg::app
