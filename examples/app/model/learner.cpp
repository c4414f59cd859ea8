#include "model/learner.hpp"

#include <ATen/CPUGeneratorImpl.h>

#include "model/ablation.hpp"
#include "smooseg/position_free.hpp"
#include "support/profiler.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {
namespace {

// Parts of a checkpoint.
const std::string kThresholdsPrefix = "thresholds.", kRestartsPrefix = "restarts.";

io::TensorMap with_prefix(const io::TensorMap& tensors, const std::string& prefix) {
  io::TensorMap result;
  for (const auto& [name, tensor] : tensors) result[prefix + name] = tensor;
  return result;
}

io::TensorMap without_prefix(const io::TensorMap& tensors, const std::string& prefix) {
  io::TensorMap result;
  for (const auto& [name, tensor] : tensors) {
    if (name.rfind(prefix, 0) == 0) result[name.substr(prefix.size())] = tensor;
  }
  return result;
}

/// The model, with the parameters frozen that its ablation does not teach.
Model& prepared(Model& model) {
  prepare_ablation(*model.segmenter, model.settings.without);
  return model;
}

}  // namespace

Learner::Learner(Model& model)
    : model_(prepared(model)),
      draws_(at::make_generator<at::CPUGeneratorImpl>()),
      energy_(energy_options(model.settings)),
      optimizer_(*model.segmenter, model.settings),
      restarts_(PrototypeRestartOptions().restart(model.settings.restarts == "on")) {
  const ModelSettings& s = model.settings;
  if (s.within_threshold) return;
  controller_.emplace(ThresholdControllerOptions(s.classes),
                      at::make_generator<at::CPUGeneratorImpl>(mix_seed(s.seed, SeedPurpose::kThresholds)));
}

Learner::Step Learner::step(const Tensor& features) {
  const ModelSettings& s = model_.settings;
  Projector& projector = model_.segmenter->projector;
  PrototypePredictor& predictor = model_.segmenter->predictor;
  const uint64_t seed = mix_seed(s.seed, SeedPurpose::kStep, static_cast<uint64_t>(model_.step));
  draws_.set_current_seed(seed);

  projector->train();
  const ProjectorOutput projected = timed("projector", [&] { return projector(features, draws_); });
  const Tensor pairing = functional::random_pairing(features.size(0), draws_);
  const bool one_set = s.without == "data";  // of prototypes, the teacher's: they learn themselves
  const PrototypeLogits logits = timed(
      "predictor", [&] { return one_set ? one_set_logits(predictor, projected.code) : predictor(projected.code); });
  if (controller_) {
    timed("thresholds",
          [&] { energy_->set_thresholds(controller_->update(compared(features), logits.teacher, pairing)); });
  }
  EnergyTerms e = timed("loss", [&] { return energy_(compared(projected.features), logits, pairing); });
  e.total = objective(e, s.without);
  optimizer_.zero_grad();
  timed("backward", [&] { e.total.backward(); });
  timed("optimiser", [&] {
    if (one_set) {
      optimizer_.step();
      EmaUpdater(0).update(predictor->teacher, predictor->student);
      return;
    }
    if (s.teacher_update == "before") predictor->update_teacher();
    optimizer_.step();
    if (s.teacher_update == "after") predictor->update_teacher();
  });
  timed("restarts", [&] { restarts_.update(predictor, logits, projected.code, draws_); });
  ++model_.step;
  return {e, logits.teacher.detach()};
}

Thresholds Learner::thresholds() const {
  const SmoothnessOptions& smoothness = energy_->options.smoothness();
  return {smoothness.within_threshold(), smoothness.across_threshold()};
}

/// What closeness is computed from. As `PositionFree` within the energy, but normalised on the way.
Tensor Learner::compared(const Tensor& features) const {
  const Tensor& basis = model_.position_basis;
  return basis.defined() ? functional::without_directions(features, basis) : features;
}

io::TensorMap Learner::state() {
  io::TensorMap state = optimizer_.state();
  if (controller_) state.merge(with_prefix(controller_->state(), kThresholdsPrefix));
  state.merge(with_prefix(restarts_.state(), kRestartsPrefix));
  return state;
}

void Learner::load_state(const io::TensorMap& tensors, const std::string& source) {
  optimizer_.load_state(tensors, source);
  if (controller_) controller_->load_state(without_prefix(tensors, kThresholdsPrefix));
  restarts_.load_state(without_prefix(tensors, kRestartsPrefix));
}

}  // namespace smooseg::app
