#pragma once

// Algorithm 1 of the paper: what a step of training does to a model.

#include <torch/types.h>

#include <memory>
#include <optional>
#include <string>

#include "model/model.hpp"
#include "model/optimizer.hpp"
#include "smooseg/loss.hpp"
#include "smooseg/prototype_restarts.hpp"
#include "smooseg/thresholds.hpp"
#include "support/processes.hpp"

namespace smooseg::app {

/// Teaches a model's projector and prototypes, a batch of features at a time. The seed and the step's number alone decide
/// every random draw of a step, so that a run that was stopped and resumed ends with the very weights of one that never
/// was.
///
/// Several processes that begin with equal models keep them equal: each has its own part of a step's batch, and all take
/// the mean of their gradients, and the thresholds and restarted prototypes of the first. Each makes the draws of all and
/// takes its own, so that with partners from the global batch (`--across global`) they learn as one that has all of it.
class Learner {
 public:
  /// @param model on its device, its backbone ready; must outlive the learner.
  explicit Learner(Model& model, std::shared_ptr<Processes> processes = Processes::alone());

  /// What a step computed, before it changed the model.
  struct Step {
    EnergyTerms energy;
    Tensor teacher;  ///< (B,K,h,w), its logits
  };

  /// A step of Algorithm 1; counts it in the model.
  /// @param features (B,C,h,w), the backbone's, on the model's device.
  Step step(const Tensor& features);

  /// The mean of what the processes computed: the energy of the global batch, of pairs within each one's own or across.
  EnergyTerms over_processes(const EnergyTerms& energy) const;

  /// The thresholds of the step before, or those that the first will have.
  Thresholds thresholds() const;

  /// What chooses the thresholds; null where the settings, or another process, tell them.
  const ThresholdController* controller() const { return controller_ ? &*controller_ : nullptr; }

  /// Which prototypes are dead, and how often they were restarted.
  const PrototypeRestarts& restarts() const { return restarts_; }

  /// What a checkpoint holds beside the model, under names that begin with "optimizer.", "thresholds." and "restarts.".
  io::TensorMap state();

  /// @throws c10::Error naming `source` where something is missing or of another shape.
  void load_state(const io::TensorMap& tensors, const std::string& source);

 private:
  Tensor compared(const Tensor& features) const;
  Tensor draw_pairing(int64_t batch);
  void choose_thresholds(const Tensor& features, const Tensor& teacher, const Tensor& pairing);
  void restart_dead(const PrototypeLogits& logits, const Tensor& code);

  Model& model_;
  std::shared_ptr<Processes> processes_;
  at::Generator draws_;  // for dropout and pairs of images; on the CPU, so that any device gets the same
  EnergyLoss<> energy_;
  Optimizer optimizer_;
  std::optional<ThresholdController> controller_;
  PrototypeRestarts restarts_;
};

}  // namespace smooseg::app
