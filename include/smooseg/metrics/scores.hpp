#pragma once

// Accuracy and intersection over union of clusters that are matched with classes, in Eigen alone.

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "smooseg/metrics/hungarian.hpp"

namespace smooseg::metrics {

/// How many pixels of each class (column) lie in each cluster (row).
using Counts = Eigen::Matrix<int64_t, Eigen::Dynamic, Eigen::Dynamic>;

/// How good a labelling is once its clusters are matched with classes.
struct Scores {
  /// Share of the labelled pixels whose cluster has their class, 0..1.
  double accuracy = 0;
  /// Mean of `iou` over the classes that occur, 0..1.
  double miou = 0;
  /// Of each class: pixels that are both in it and in its cluster, over pixels that are either, 0..1. 0 for a class
  /// without a cluster; NaN for one that occurs neither in the labels nor in the predictions (no part of `miou`).
  std::vector<double> iou;
  /// The class of each cluster; -1: none.
  std::vector<int64_t> class_of_cluster;
};

/// Matches clusters with classes so that the most pixels are right (Hungarian matching), and scores the result. The
/// matching is one to one: with more clusters than classes, those left over have no class and their pixels count as
/// errors; with fewer, the classes left over have IoU 0.
/// @param counts (clusters, classes), not negative.
/// @throws std::invalid_argument where nothing was counted.
inline Scores scores(const Counts& counts) {
  const int64_t total = counts.sum();
  if (total <= 0) throw std::invalid_argument("scores: expected counts of at least one labelled pixel, got none");

  Scores result;
  result.class_of_cluster = hungarian(-counts.cast<double>());
  // Of each class the pixels that are in its cluster, and those that are in it or its cluster.
  Counts hits = Counts::Zero(1, counts.cols()), either = counts.colwise().sum();
  for (Eigen::Index cluster = 0; cluster < counts.rows(); ++cluster) {
    const int64_t matched = result.class_of_cluster[static_cast<std::size_t>(cluster)];
    if (matched < 0) continue;
    hits(0, matched) = counts(cluster, matched);
    either(0, matched) += counts.row(cluster).sum() - counts(cluster, matched);
  }
  result.accuracy = static_cast<double>(hits.sum()) / static_cast<double>(total);

  double sum = 0;
  int64_t occurring = 0;
  for (Eigen::Index c = 0; c < counts.cols(); ++c) {
    // 0 / 0 is the NaN of a class that occurs nowhere.
    result.iou.push_back(static_cast<double>(hits(0, c)) / static_cast<double>(either(0, c)));
    if (std::isnan(result.iou.back())) continue;
    sum += result.iou.back();
    ++occurring;
  }
  result.miou = sum / static_cast<double>(occurring);
  return result;
}

}  // namespace smooseg::metrics
