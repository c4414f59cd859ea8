#pragma once

// Accuracy and intersection over union of clusters that are matched with classes, in Eigen alone.

#include <Eigen/Core>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "smooseg/metrics/hungarian.hpp"

namespace smooseg::metrics {

/// How many pixels of each class (column) lie in each cluster (row).
using Counts = Eigen::Matrix<int64_t, Eigen::Dynamic, Eigen::Dynamic>;

/// How clusters get their classes.
enum class Matching {
  kHungarian,  ///< one to one, so that the most pixels are right; what is left over has no partner
  kMajority    ///< each cluster the class that most of its pixels have; several may have the same
};

/// Which classes `Scores::miou` averages over.
enum class AbsentClasses {
  kSkip,            ///< those that occur in the labels or are predicted, as the published evaluation does
  kSkipUnlabelled,  ///< those that occur in the labels
  kZero             ///< all; what occurs nowhere counts as 0
};

/// What scores depend on besides the counts. The defaults are those of the published evaluation.
struct Protocol {
  Matching matching = Matching::kHungarian;
  AbsentClasses absent = AbsentClasses::kSkip;
};

/// How good a labelling is once its clusters are matched with classes.
struct Scores {
  /// Share of the labelled pixels whose cluster has their class, 0..1.
  double accuracy = 0;
  /// Mean of `iou` over the classes that `Protocol::absent` names, 0..1.
  double miou = 0;
  /// Of each class: pixels that are both in it and in its clusters, over pixels that are either, 0..1. 0 for a class
  /// without a cluster; NaN for one that occurs neither in the labels nor in the predictions.
  std::vector<double> iou;
  /// The class of each cluster; -1: none.
  std::vector<int64_t> class_of_cluster;
};

/// Matches clusters with classes and scores the result. With the Hungarian matching and more clusters than classes,
/// those left over have no class and their pixels count as errors; with fewer, the classes left over have IoU 0. With the
/// majority's, a cluster without pixels has no class, and of classes with equally many the first is taken.
/// @param counts (clusters, classes), not negative.
/// @throws std::invalid_argument where nothing was counted.
inline Scores scores(const Counts& counts, const Protocol& protocol = {}) {
  const int64_t total = counts.sum();
  if (total <= 0) throw std::invalid_argument("scores: expected counts of at least one labelled pixel, got none");

  Scores result;
  if (protocol.matching == Matching::kHungarian) {
    result.class_of_cluster = hungarian(-counts.cast<double>());
  } else {
    for (Eigen::Index cluster = 0; cluster < counts.rows(); ++cluster) {
      Eigen::Index most = 0;
      const bool is_empty = counts.row(cluster).maxCoeff(&most) == 0;
      result.class_of_cluster.push_back(is_empty ? -1 : most);
    }
  }
  // Of each class the pixels that are in its clusters, and those that are in it or them.
  const Counts labelled = counts.colwise().sum();
  Counts hits = Counts::Zero(1, counts.cols()), either = labelled;
  for (Eigen::Index cluster = 0; cluster < counts.rows(); ++cluster) {
    const int64_t matched = result.class_of_cluster[static_cast<std::size_t>(cluster)];
    if (matched < 0) continue;
    hits(0, matched) += counts(cluster, matched);
    either(0, matched) += counts.row(cluster).sum() - counts(cluster, matched);
  }
  result.accuracy = static_cast<double>(hits.sum()) / static_cast<double>(total);

  double sum = 0;
  int64_t counted = 0;
  for (Eigen::Index c = 0; c < counts.cols(); ++c) {
    // 0 / 0 is the NaN of a class that occurs nowhere.
    result.iou.push_back(static_cast<double>(hits(0, c)) / static_cast<double>(either(0, c)));
    const bool counts_here = protocol.absent == AbsentClasses::kZero             ? true
                             : protocol.absent == AbsentClasses::kSkipUnlabelled ? labelled(0, c) > 0
                                                                                 : either(0, c) > 0;
    if (!counts_here) continue;
    sum += either(0, c) > 0 ? result.iou.back() : 0;
    ++counted;
  }
  result.miou = sum / static_cast<double>(counted);
  return result;
}

}  // namespace smooseg::metrics
