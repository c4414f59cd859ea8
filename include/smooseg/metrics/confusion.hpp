#pragma once

// Confusion counts of label tensors.

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <torch/types.h>

#include <Eigen/Core>
#include <cstdint>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/metrics/scores.hpp"

namespace smooseg::metrics {

/// Counts, over any number of images, how often each cluster meets each class.
class ConfusionMatrix {
 public:
  /// @throws c10::Error for fewer than one cluster or class.
  ConfusionMatrix(int64_t num_clusters, int64_t num_classes) {
    TORCH_CHECK(num_clusters > 0 && num_classes > 0,
                "ConfusionMatrix: expected at least one cluster and one class, got ", num_clusters, " and ",
                num_classes);
    counts_ = Counts::Zero(num_clusters, num_classes);
  }

  /// Adds the pixels of one or many images. Labels outside [0, num_classes) are ignored, whatever is predicted there.
  /// @param predictions Clusters, integers of any shape, on any device.
  /// @param labels Classes, integers of the same shape, on the same device.
  /// @throws c10::Error for other shapes, dtypes or devices, and for a prediction outside [0, num_clusters) at a pixel
  ///   that counts; the counts are then as before.
  void update(const Tensor& predictions, const Tensor& labels) {
    check_integer(predictions, "predictions");
    check_integer(labels, "labels");
    TORCH_CHECK(predictions.sizes() == labels.sizes(),
                "ConfusionMatrix::update: expected predictions and labels of one shape, got ",
                detail::shape_of(predictions), " and ", detail::shape_of(labels));
    detail::check_same_device(predictions, labels, "ConfusionMatrix::update", "predictions", "labels");

    const Tensor all_labels = labels.to(torch::kLong);
    const Tensor valid = (all_labels >= 0).logical_and_(all_labels < counts_.cols());
    const Tensor clusters = predictions.to(torch::kLong).masked_select(valid);
    if (clusters.numel() == 0) return;
    const int64_t lowest = clusters.min().item<int64_t>(), highest = clusters.max().item<int64_t>();
    TORCH_CHECK(lowest >= 0 && highest < counts_.rows(), "ConfusionMatrix::update: expected predictions of 0 to ",
                counts_.rows() - 1, " where the label counts, got ", lowest, " to ", highest);

    // A bin for each pair, in the order of Eigen's columns.
    const Tensor pairs = all_labels.masked_select(valid) * counts_.rows() + clusters;
    const Tensor bins = at::bincount(pairs, {}, counts_.size()).cpu();
    counts_ += Eigen::Map<const Counts>(bins.data_ptr<int64_t>(), counts_.rows(), counts_.cols());
  }

  /// Adds what another one counted.
  /// @throws c10::Error for other numbers of clusters or classes.
  ConfusionMatrix& operator+=(const ConfusionMatrix& other) {
    TORCH_CHECK(counts_.rows() == other.counts_.rows() && counts_.cols() == other.counts_.cols(),
                "ConfusionMatrix: expected ", counts_.rows(), " clusters and ", counts_.cols(), " classes to add, got ",
                other.counts_.rows(), " and ", other.counts_.cols());
    counts_ += other.counts_;
    return *this;
  }

  /// (num_clusters, num_classes).
  const Counts& counts() const { return counts_; }

  /// Matches clusters with classes and scores them; see `metrics::scores`.
  /// @throws std::invalid_argument where no labelled pixel was counted.
  Scores scores(const Protocol& protocol = {}) const { return metrics::scores(counts_, protocol); }

 private:
  static void check_integer(const Tensor& tensor, const char* argument) {
    detail::check_defined(tensor, "ConfusionMatrix::update", argument);
    TORCH_CHECK(c10::isIntegralType(tensor.scalar_type(), /*includeBool=*/false), "ConfusionMatrix::update: expected ",
                argument, " of an integer dtype, got ", tensor.scalar_type());
  }

  Counts counts_;
};

}  // namespace smooseg::metrics
