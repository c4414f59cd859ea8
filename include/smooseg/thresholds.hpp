#pragma once

// The two thresholds of Eq. 4 without labels.

#include <ATen/Functions.h>
#include <torch/arg.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "smooseg/baselines/kmeans.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/host_copy.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/options.hpp"
#include "smooseg/pairing.hpp"

namespace smooseg {

/// Options for `ThresholdController`.
struct ThresholdControllerOptions {
  /* implicit */ ThresholdControllerOptions(int64_t num_classes) : num_classes_(num_classes) {}

  /// Number of classes K.
  TORCH_ARG(int64_t, num_classes);

  /// Thresholds to begin with; nothing: those that the first batch gives.
  TORCH_ARG(std::optional<Thresholds>, start) = {};

  /// Calls from one measurement to the next, the first of which is the first call. Default: 10
  TORCH_ARG(int64_t, interval) = 10;

  /// The share of the way to what was measured that the thresholds go, in (0,1]. Default: 0.25
  TORCH_ARG(double, rate) = 0.25;

  /// The share of the K classes below which assignments count as collapsed, in [0,1]; 0: they are not looked at.
  /// Default: 0.5
  TORCH_ARG(double, least_classes) = 0.5;
};

/// What a controller last measured, for the log; mean closeness and shares of pairs, each before centring.
struct ThresholdMeasurement {
  double joined_across = 0;   ///< closeness of patches of two images that are of one cluster
  double joined_within = 0;   ///< closeness of patches of one image that are of one cluster
  double cut_within = 0;      ///< closeness of patches of one image that are of different clusters
  double cluster_share = 0;   ///< pairs across images that the clusters join
  double assigned_share = 0;  ///< pairs across images that the assignments join
  double classes_in_use = 0;  ///< classes with at least a twentieth of an equal share of the patches
};

/// Chooses the thresholds of Eq. 4 by the features, K and the assignments, while a model learns:
///
///     ThresholdController controller(ThresholdControllerOptions(num_classes));
///     for (...) {
///       energy->set_thresholds(controller.update(features, assignments, pairing));
///       energy(features, logits, pairing).total.backward();
///
/// It divides the patches into K clusters by k-means under the cosine distance, whose centres move with the batches, and
/// asks what Eq. 4 would have to make of these:
///
///     across = mean closeness of patches of two images that are of one cluster
///     within = the middle between the mean closeness of patches of one image that are of one cluster and that of patches
///              of different clusters
///
/// Across images only what is as alike as the members of a class are is pulled together; within an image, where much
/// speaks for patches being of one class, all that is nearer to that than to what is of different classes. K decides
/// both, since more classes are tighter ones. While the assignments use fewer than `least_classes` of the K classes,
/// `across` rises on towards 1, which pushes classes apart.
///
/// A measurement costs about a step of k-means, O(N C K). On a GPU it counts from the next one on, so that after the
/// first no step waits for the device.
class ThresholdController {
 public:
  /// @param generator source of randomness (CPU) for the first centres; the default one where none is given.
  /// @throws c10::Error for options out of range.
  explicit ThresholdController(const ThresholdControllerOptions& options_, std::optional<at::Generator> generator = {})
      : options(options_), generator_(std::move(generator)) {
    TORCH_CHECK(options.num_classes() >= 2, kName, ": expected num_classes of at least 2, got ", options.num_classes());
    TORCH_CHECK(options.interval() >= 1, kName, ": expected an interval of at least 1, got ", options.interval());
    TORCH_CHECK(options.rate() > 0 && options.rate() <= 1, kName, ": expected a rate in (0,1], got ", options.rate());
    TORCH_CHECK(options.least_classes() >= 0 && options.least_classes() <= 1, kName,
                ": expected least_classes in [0,1], got ", options.least_classes());
  }

  /// Looks at a step's batch and says with which thresholds its energy is to be computed. Records no gradients.
  /// @param features (B,C,...), floating; what the loss gets. @param assignments (B,K,...) of the same patches, soft or
  ///   logits: only which class is the greatest counts.
  /// @param pairing (B) int64: image i is compared with image pairing[i].
  /// @throws c10::Error for shapes or dtypes that do not fit, and at first for fewer than K patches or for features that
  ///   are not finite.
  Thresholds update(const Tensor& features, const Tensor& assignments, const Tensor& pairing) {
    constexpr auto kUpdate = "smooseg::ThresholdController::update";
    detail::check_map(features, kUpdate, "features", "(B,C,...)");
    detail::check_map(assignments, kUpdate, "assignments", "(B,K,...)");
    TORCH_CHECK(assignments.size(1) == options.num_classes() && assignments.size(0) == features.size(0) &&
                    assignments.sizes().slice(2) == features.sizes().slice(2),
                kUpdate, ": expected assignments of ", options.num_classes(), " classes for the patches of ",
                detail::shape_of(features), ", got ", detail::shape_of(assignments));
    detail::check_pairing(pairing, features.size(0), features.device(), kUpdate);
    const bool first = calls_ == 0;
    if (calls_++ % options.interval() != 0) return thresholds_;
    const torch::NoGradGuard no_grad;
    if (!first) settle();
    measured_.start(measure(features, assignments, pairing));
    if (first) {  // whatever the assignments are, which a new model draws at random
      measurement_ = read();
      thresholds_ = options.start().value_or(wanted());
    }
    return thresholds_;
  }

  /// Those that hold now.
  const Thresholds& thresholds() const { return thresholds_; }

  const ThresholdMeasurement& measurement() const { return measurement_; }

  /// What a checkpoint needs so that a run that goes on chooses the same; empty before the first `update`.
  std::map<std::string, Tensor> state() const {
    if (calls_ == 0) return {};
    const Tensor numbers = torch::tensor({thresholds_.within, thresholds_.across, pressure_}, torch::kFloat64);
    return {{"numbers", numbers},
            {"calls", torch::tensor(calls_, torch::kInt64)},
            {"measured", measured_.get().clone()},
            {"sums", sums_}};
  }

  /// Goes on from the state of a controller with the same options.
  /// @throws c10::Error for a state that lacks a tensor or has one of another shape.
  void load_state(const std::map<std::string, Tensor>& state) {
    if (state.empty()) return;
    const auto tensor = [&](const char* name, int64_t dims, int64_t size) {
      const auto found = state.find(name);
      TORCH_CHECK(found != state.end() && found->second.dim() == dims && (dims == 0 || found->second.size(0) == size),
                  kName, "::load_state: expected a tensor '", name, "' of ", dims, " dimensions",
                  dims == 0 ? "" : ", the first of size ", dims == 0 ? "" : std::to_string(size), ", got ",
                  found == state.end() ? "none" : detail::shape_of(found->second));
      return found->second;
    };
    const Tensor numbers = tensor("numbers", 1, 3).to(torch::kCPU, torch::kFloat64).contiguous();
    const auto* const values = numbers.data_ptr<double>();
    thresholds_ = {values[0], values[1]};
    pressure_ = values[2];
    calls_ = tensor("calls", 0, 1).item<int64_t>();
    measured_.start(tensor("measured", 1, kMeasured).to(torch::kCPU, torch::kFloat64).contiguous());
    measurement_ = read();
    sums_ = tensor("sums", 2, options.num_classes()).clone();
  }

  ThresholdControllerOptions options;

 private:
  static constexpr auto kName = "smooseg::ThresholdController";
  static constexpr int64_t kMeasured = 6;  // numbers of a measurement
  static constexpr double kDecay = 0.9;    // of what earlier batches weigh in the centres

  /// The numbers of a `ThresholdMeasurement`, (5) float64 on the features' device; NaN where there is no such pair.
  Tensor measure(const Tensor& features, const Tensor& assignments, const Tensor& pairing) {
    const auto dtype = at::promote_types(torch::kFloat32, features.scalar_type());
    const Tensor wide = features.detach().flatten(2).to(dtype), x = wide / baselines::KMeans::norm(wide);  // (B,C,N)
    if (!sums_.defined()) {
      baselines::KMeans kmeans(baselines::KMeansOptions(options.num_classes()).iterations(20), generator_);
      kmeans.fit(x);
      sums_ =
          kmeans.centers() * static_cast<double>(x.size(0) * x.size(2)) / static_cast<double>(options.num_classes());
    }
    sums_ = sums_.to(x.options());
    const Tensor centers = sums_ / sums_.norm(2, {1}, /*keepdim=*/true).clamp_min(kNormEps);
    const Tensor clusters = members(at::matmul(centers, x), dtype);                     // (B,N,K)
    const Tensor sums = at::bmm(x, clusters).transpose(1, 2), sizes = clusters.sum(1);  // (B,K,C), (B,K)
    sums_ = sums_ * kDecay + sums.sum(0);

    const Tensor partner = pairing.to(x.device(), /*non_blocking=*/true);
    const auto pairs = [](const Tensor& a, const Tensor& b) { return (a * b).sum(torch::kFloat64); };
    const auto with_partners = [&](const Tensor& a) { return pairs(a, a.index_select(0, partner)); };
    const double all = static_cast<double>(x.size(0) * x.size(2) * x.size(2));
    const Tensor whole = x.sum(2), joined_within = pairs(sizes, sizes), joined_across = with_partners(sizes);
    const Tensor classes = members(assignments.detach().flatten(2), dtype).sum(1);  // (B,K)
    const Tensor shares = classes.sum(0) / static_cast<double>(x.size(0) * x.size(2));
    const Tensor in_use = shares.ge(0.05 / static_cast<double>(options.num_classes())).sum().to(torch::kFloat64);
    const Tensor alike_within = pairs(sums, sums);
    return at::stack({with_partners(sums) / joined_across, alike_within / joined_within,
                      (pairs(whole, whole) - alike_within) / (all - joined_within), joined_across / all,
                      with_partners(classes) / all, in_use});
  }

  /// Of each patch, 1 at its greatest row and 0 elsewhere: (B,K,N) -> (B,N,K).
  static Tensor members(const Tensor& scores, torch::ScalarType dtype) {
    return at::one_hot(scores.argmax(1), scores.size(1)).to(dtype);
  }

  ThresholdMeasurement read() const {
    const auto* const values = measured_.get().data_ptr<double>();
    return {values[0], values[1], values[2], values[3], values[4], values[5]};
  }

  /// Moves the thresholds to what the last measurement wants.
  void settle() {
    measurement_ = read();
    const bool collapsed =
        measurement_.classes_in_use < options.least_classes() * static_cast<double>(options.num_classes());
    pressure_ += options.rate() * ((collapsed ? 1 : 0) - pressure_);
    const Thresholds goal = wanted();
    thresholds_.within += options.rate() * (goal.within - thresholds_.within);
    thresholds_.across += options.rate() * (goal.across - thresholds_.across);
  }

  /// What was measured, but where there was nothing to measure.
  Thresholds wanted() const {
    const auto or_present = [](double value, double present) { return std::isfinite(value) ? value : present; };
    const double joined = or_present(measurement_.joined_across, thresholds_.across);
    const double within = (measurement_.joined_within + measurement_.cut_within) / 2;
    return {or_present(within, thresholds_.within), joined + pressure_ * std::max(0.0, 1 - joined)};
  }

  std::optional<at::Generator> generator_;
  int64_t calls_ = 0;
  Thresholds thresholds_;
  ThresholdMeasurement measurement_;
  double pressure_ = 0;        // how much of the way to 1 a collapse pushes `across`
  detail::HostCopy measured_;  // numbers of the last measurement
  Tensor sums_;                // (K,C): weighted sums of the clusters' unit vectors
};

}  // namespace smooseg
