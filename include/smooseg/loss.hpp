#pragma once

#include <torch/arg.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <ostream>
#include <utility>

#include "smooseg/closeness.hpp"
#include "smooseg/data_term.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/ema.hpp"
#include "smooseg/options.hpp"
#include "smooseg/pairing.hpp"
#include "smooseg/penalty.hpp"
#include "smooseg/predictor.hpp"
#include "smooseg/smoothness.hpp"

namespace smooseg {

struct EnergyOptions {
  TORCH_ARG(SmoothnessOptions, smoothness);
  /// tau of Eq. 5, the teacher's softmax temperature.
  TORCH_ARG(double, temperature) = kTemperature;
  /// Whether an energy that is not finite is an error that names the input at fault. Waits for the device.
  TORCH_ARG(bool, check_finite) = false;

 public:
  /// The equations as printed: rows centred, sums over batch and pairs.
  static EnergyOptions paper() {
    return EnergyOptions().smoothness(SmoothnessOptions().centering(Centering::kRow).reduction(Reduction::kSum));
  }
  /// The published program's settings for Cityscapes (27 classes); also the defaults.
  static EnergyOptions cityscapes() { return {}; }
  /// The published program's settings for COCOStuff (27 classes).
  static EnergyOptions cocostuff() { return with_thresholds(kWithinThreshold, 0.48); }
  /// The published program's settings for Potsdam-3.
  static EnergyOptions potsdam() { return with_thresholds(0.1, kAcrossThreshold); }

 private:
  static EnergyOptions with_thresholds(double within, double across) {
    return EnergyOptions().smoothness(SmoothnessOptions().within_threshold(within).across_threshold(across));
  }
};

/// Eq. 7 and its parts; scalars. `total` = within + across + data is what is minimised, the others are for the log.
struct EnergyTerms {
  Tensor total, within, across, data, within_penalty_mean, across_penalty_mean;
};

/// Eq. 7, the energy that training minimises: smoothness of the teacher's assignments plus the data term. With logits
/// from a `PrototypePredictor`, the smoothness term's gradient reaches the code and the data term's the student's
/// prototypes, and nothing else. `EnergyLoss<>` is the paper's; other policies are those of `functional::smoothness`.
/// All options may be changed at any time and hold from the next call on. With an exchange (`SmoothnessOptions`) the mean
/// of the processes' energies is the energy of all their images, and the mean of their gradients its gradient.
template <class Closeness = CosineCloseness, class Penalty = CosinePenalty>
class EnergyLossImpl : public torch::nn::Cloneable<EnergyLossImpl<Closeness, Penalty>> {
 public:
  /// @throws c10::Error if the temperature is not positive.
  explicit EnergyLossImpl(const EnergyOptions& options_ = {}, Closeness closeness = {}, Penalty penalty = {})
      : options(options_), closeness_(std::move(closeness)), penalty_(std::move(penalty)) {
    TORCH_CHECK(options.temperature() > 0, "smooseg::EnergyLoss: expected temperature > 0, got ",
                options.temperature());
    detail::check_options<Closeness, Penalty>(options.smoothness(), "smooseg::EnergyLoss");
  }

  void reset() override {}

  void pretty_print(std::ostream& stream) const override {
    stream << "smooseg::EnergyLoss(temperature=" << options.temperature() << ")";
  }

  /// @param features x of Eq. 2, (B,C,...), floating. @param logits (B,K,...) of the same patches.
  /// @param pairing (B) int64: image i is compared with image pairing[i]; with an exchange, of all processes' images.
  /// @throws c10::Error for shapes, dtypes or devices that do not fit, and as the options say.
  EnergyTerms forward(const Tensor& features, const PrototypeLogits& logits, const Tensor& pairing) {
    detail::check_map(logits.teacher, "smooseg::EnergyLoss", "logits.teacher", "(B,K,...)");
    const Tensor assignments = functional::soft_assignments(logits.teacher, options.temperature());
    const SmoothnessTerms s =
        functional::smoothness(features, assignments, pairing, options.smoothness(), closeness_, penalty_);
    Tensor data = functional::data_term(logits.student, logits.teacher, options.smoothness().reduction());
    if (options.smoothness().exchange() != nullptr && options.smoothness().reduction() == Reduction::kSum) {
      data = data * options.smoothness().exchange()->size();
    }
    const Tensor total = s.total() + data;
    if (options.check_finite()) check_finite(total, features, logits);
    return {total, s.within, s.across, data, s.within_penalty_mean, s.across_penalty_mean};
  }

  /// What a `ThresholdController` chose, for the next calls.
  void set_thresholds(const Thresholds& thresholds) {
    options.smoothness().within_threshold(thresholds.within).across_threshold(thresholds.across);
  }

  EnergyOptions options;

 private:
  static void check_finite(const Tensor& total, const Tensor& features, const PrototypeLogits& logits) {
    const auto is_finite = [](const Tensor& t) { return t.isfinite().all().template item<bool>(); };
    if (is_finite(total)) return;
    const char* const at_fault = !is_finite(features)         ? "the features are not"
                                 : !is_finite(logits.teacher) ? "the teacher's logits are not"
                                 : !is_finite(logits.student) ? "the student's logits are not"
                                                              : "the inputs are: their scale overflows";
    TORCH_CHECK(false, "smooseg::EnergyLoss: the energy is not finite; ", at_fault);
  }

  Closeness closeness_;
  Penalty penalty_;
};

/// Holder of `EnergyLossImpl`; `EnergyLoss energy(options)` is the paper's, `EnergyLoss energy(options, closeness)` has a
/// closeness of one's own.
template <class Closeness = CosineCloseness, class Penalty = CosinePenalty>
class EnergyLoss : public torch::nn::ModuleHolder<EnergyLossImpl<Closeness, Penalty>> {
 public:
  using torch::nn::ModuleHolder<EnergyLossImpl<Closeness, Penalty>>::ModuleHolder;
};

EnergyLoss()->EnergyLoss<>;
EnergyLoss(EnergyOptions)->EnergyLoss<>;
template <class Closeness>
EnergyLoss(EnergyOptions, Closeness) -> EnergyLoss<Closeness>;
template <class Closeness, class Penalty>
EnergyLoss(EnergyOptions, Closeness, Penalty) -> EnergyLoss<Closeness, Penalty>;

}  // namespace smooseg
