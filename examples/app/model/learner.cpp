#include "model/learner.hpp"

#include <ATen/CPUGeneratorImpl.h>

#include <utility>

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

/// The model, with the parameters frozen that its ablation does not teach.
Model& prepared(Model& model) {
  prepare_ablation(*model.segmenter, model.settings.without);
  return model;
}

/// Whether images are compared with those of other processes.
bool is_global(const ModelSettings& settings, const Processes& processes) {
  return settings.across == "global" && processes.several();
}

bool restarts_dead(const ModelSettings& settings) {
  return settings.restarts == "on" || (settings.restarts == "auto" && !settings.within_threshold);
}

}  // namespace

Learner::Learner(Model& model, std::shared_ptr<Processes> processes)
    : model_(prepared(model)),
      processes_(std::move(processes)),
      draws_(at::make_generator<at::CPUGeneratorImpl>()),
      energy_(energy_options(model.settings)),
      optimizer_(*model.segmenter, model.settings),
      restarts_(PrototypeRestartOptions().restart(restarts_dead(model.settings))) {
  const ModelSettings& s = model.settings;
  if (processes_->several()) model.segmenter->projector->options.exchange(processes_);
  if (is_global(s, *processes_)) energy_->options.smoothness().exchange(processes_);
  if (s.within_threshold || !processes_->is_first()) return;
  controller_.emplace(ThresholdControllerOptions(s.classes).start(start_of_thresholds(s)),
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
  const Tensor pairing = draw_pairing(features.size(0));
  const bool one_set = s.without == "data";  // of prototypes, the teacher's: they learn themselves
  const PrototypeLogits logits = timed(
      "predictor", [&] { return one_set ? one_set_logits(predictor, projected.code) : predictor(projected.code); });
  if (!s.within_threshold) timed("thresholds", [&] { choose_thresholds(features, logits.teacher, pairing); });
  EnergyTerms e = timed("loss", [&] { return energy_(compared(projected.features), logits, pairing); });
  e.total = objective(e, s.without);
  optimizer_.zero_grad();
  timed("backward", [&] { e.total.backward(); });
  if (processes_->several()) timed("gradients", [&] { optimizer_.average_gradients(*processes_); });
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
  timed("restarts", [&] { restart_dead(logits, projected.code); });
  ++model_.step;
  return {e, logits.teacher.detach()};
}

/// (B), or of the images of all processes.
Tensor Learner::draw_pairing(int64_t batch) {
  if (is_global(model_.settings, *processes_)) return functional::random_pairing(batch * processes_->size(), draws_);
  Tensor pairing;  // those of the processes before are drawn too
  for (int64_t rank = 0; rank <= processes_->rank(); ++rank) pairing = functional::random_pairing(batch, draws_);
  return pairing;
}

/// The first process's, by its own images.
void Learner::choose_thresholds(const Tensor& features, const Tensor& teacher, const Tensor& pairing) {
  Thresholds chosen;
  if (controller_) {
    const bool is_own = pairing.size(0) == features.size(0);
    const Tensor own = is_own ? pairing : functional::random_pairing(features.size(0), draws_);
    chosen = controller_->update(compared(features), teacher, own);
  }
  if (processes_->several()) {
    const Tensor all = processes_->all_gather(torch::tensor({chosen.within, chosen.across}, torch::kFloat64));
    chosen = {all[0].item<double>(), all[1].item<double>()};
  }
  energy_->set_thresholds(chosen);
}

/// In all processes as in the first, by its own images.
void Learner::restart_dead(const PrototypeLogits& logits, const Tensor& code) {
  PrototypePredictor& predictor = model_.segmenter->predictor;
  restarts_.update(predictor, logits, code, draws_);
  if (!processes_->several() || !restarts_.restarted()) return;
  const torch::NoGradGuard no_grad;
  for (Tensor* prototypes : {&predictor->student, &predictor->teacher}) {
    prototypes->copy_(processes_->all_gather(prototypes->detach()).narrow(0, 0, prototypes->size(0)));
  }
}

EnergyTerms Learner::over_processes(const EnergyTerms& e) const {
  if (!processes_->several()) return e;
  const torch::NoGradGuard no_grad;
  const auto mean = (processes_->all_reduce(torch::stack(
                         {e.total, e.within, e.across, e.data, e.within_penalty_mean, e.across_penalty_mean})) /
                     processes_->size())
                        .unbind();
  return {mean[0], mean[1], mean[2], mean[3], mean[4], mean[5]};
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
  if (controller_) controller_->load_state(tensors_under(kThresholdsPrefix, tensors));
  restarts_.load_state(tensors_under(kRestartsPrefix, tensors));
}

}  // namespace smooseg::app
