#pragma once

// Confusion counts of label tensors.

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <torch/types.h>

#include <Eigen/Core>
#include <cstdint>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/exchange.hpp"
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
  /// @param predictions Clusters, integers of any shape, on any device. What does not lie on the CPU is counted where it
  ///   lies, without a wait; `counts` reads it.
  /// @param labels Classes, integers of the same shape, on the same device.
  /// @throws c10::Error for other shapes, dtypes or devices, and for a prediction outside [0, num_clusters) at a pixel
  ///   that counts; the counts are then as before. On another device than the CPU `counts` throws the latter.
  void update(const Tensor& predictions, const Tensor& labels) {
    check_integer(predictions, "predictions");
    check_integer(labels, "labels");
    TORCH_CHECK(predictions.sizes() == labels.sizes(),
                "ConfusionMatrix::update: expected predictions and labels of one shape, got ",
                detail::shape_of(predictions), " and ", detail::shape_of(labels));
    detail::check_same_device(predictions, labels, "ConfusionMatrix::update", "predictions", "labels");

    const Tensor all_labels = labels.to(torch::kLong);
    if (!labels.device().is_cpu()) return count_there(predictions.to(torch::kLong), all_labels);
    const Tensor valid = (all_labels >= 0).logical_and_(all_labels < counts_.cols());
    const Tensor clusters = predictions.to(torch::kLong).masked_select(valid);
    if (clusters.numel() == 0) return;
    const int64_t lowest = clusters.min().item<int64_t>(), highest = clusters.max().item<int64_t>();
    TORCH_CHECK(lowest >= 0 && highest < counts_.rows(), "ConfusionMatrix::update: expected predictions of 0 to ",
                counts_.rows() - 1, " where the label counts, got ", lowest, " to ", highest);

    const Tensor pairs = all_labels.masked_select(valid) * counts_.rows() + clusters;
    counts_ += from_bins(at::bincount(pairs, {}, counts_.size()));
  }

  /// Adds what another one counted.
  /// @throws c10::Error for other numbers of clusters or classes.
  ConfusionMatrix& operator+=(const ConfusionMatrix& other) {
    TORCH_CHECK(counts_.rows() == other.counts_.rows() && counts_.cols() == other.counts_.cols(),
                "ConfusionMatrix: expected ", counts_.rows(), " clusters and ", counts_.cols(), " classes to add, got ",
                other.counts_.rows(), " and ", other.counts_.cols());
    counts_ += other.counts_;
    if (other.there_.defined()) add_there(other.there_);
    return *this;
  }

  /// Adds what the other processes counted, so that all have the counts of all.
  /// @throws c10::Error as `counts`.
  void all_reduce(Exchange& exchange) {
    Tensor all = torch::empty({counts_.size()}, torch::kInt64);  // in the order of Eigen's columns
    Eigen::Map<Counts>(all.data_ptr<int64_t>(), counts_.rows(), counts_.cols()) = counts();
    all = exchange.all_reduce(all);
    counts_ = from_bins(all);
    there_ = Tensor();
  }

  /// (num_clusters, num_classes); waits for the device that counted.
  /// @throws c10::Error where predictions on another device than the CPU were outside [0, num_clusters).
  Counts counts() const {
    if (!there_.defined()) return counts_;
    const Tensor bins = there_.to(torch::kCPU);
    const int64_t impossible = bins[counts_.size()].item<int64_t>();
    TORCH_CHECK(impossible == 0, "ConfusionMatrix: expected predictions of 0 to ", counts_.rows() - 1,
                " where the label counts, got others at ", impossible, " pixels");
    return counts_ + from_bins(bins);
  }

  /// Matches clusters with classes and scores them; see `metrics::scores`.
  /// @throws std::invalid_argument where no labelled pixel was counted.
  Scores scores(const Protocol& protocol = {}) const { return metrics::scores(counts(), protocol); }

 private:
  /// Counts on the device of the labels: in a bin for each pair, one for predictions that cannot be, and one for pixels
  /// that do not count.
  void count_there(const Tensor& predictions, const Tensor& labels) {
    const int64_t pairs = counts_.size();
    const Tensor is_impossible = (predictions < 0).logical_or_(predictions >= counts_.rows());
    const Tensor is_ignored = (labels < 0).logical_or_(labels >= counts_.cols());
    const Tensor bins = (labels * counts_.rows() + predictions)
                            .masked_fill_(is_impossible, pairs)
                            .masked_fill_(is_ignored, pairs + 1)
                            .flatten();
    add_there(at::zeros({pairs + 2}, bins.options()).scatter_add_(0, bins, at::ones_like(bins)));
  }

  /// @param bins as `there_`.
  void add_there(const Tensor& bins) {
    if (there_.defined() && there_.device() != bins.device()) {
      counts_ = counts();
      there_ = Tensor();
    }
    there_ = there_.defined() ? there_ + bins : bins;  // not in place: copies of this object share it
  }

  /// @param bins on the CPU; of each pair, in the order of Eigen's columns.
  Counts from_bins(const Tensor& bins) const {
    return Eigen::Map<const Counts>(bins.data_ptr<int64_t>(), counts_.rows(), counts_.cols());
  }

  static void check_integer(const Tensor& tensor, const char* argument) {
    detail::check_defined(tensor, "ConfusionMatrix::update", argument);
    TORCH_CHECK(c10::isIntegralType(tensor.scalar_type(), /*includeBool=*/false), "ConfusionMatrix::update: expected ",
                argument, " of an integer dtype, got ", tensor.scalar_type());
  }

  Counts counts_;
  Tensor there_;  // what was counted on another device, as `count_there` says; undefined: nothing
};

}  // namespace smooseg::metrics
