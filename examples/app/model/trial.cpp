#include "model/trial.hpp"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <vector>

#include "smooseg/detail/host_copy.hpp"
#include "smooseg/predictor.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {
namespace {

/// Patches along a side of a crop beyond which only every second one is taken, and so on.
constexpr int64_t kPatchesOfSide = 20;

constexpr int64_t kTrialCropsAtOnce = 32;

/// A new head on the base's backbone.
Model trial_model(const Model& base, const ModelSettings& settings, torch::Device device) {
  Model model = base;
  model.settings = settings;
  model.step = 0;
  torch::manual_seed(mix_seed(settings.seed, SeedPurpose::kInitialization));
  model.segmenter = make_segmenter(base.segmenter->backbone, settings);
  model.segmenter->projector->to(device);
  model.segmenter->predictor->to(device);
  return model;
}

}  // namespace

TrialData trial_data(TrainingFeatures& features, backbone::Backbone& backbone, const ModelSettings& settings,
                     int64_t crops, bool labelled, int workers, std::ostream& err) {
  const int64_t count = std::min(crops, features.crops().count());
  const std::vector<int64_t> chosen = batch_indices(0, count, features.crops().count(), settings.seed);
  const auto part = [&](int64_t step) {
    const auto first = chosen.begin() + step * kTrialCropsAtOnce;
    return std::vector<int64_t>(first, first + std::min(kTrialCropsAtOnce, count - step * kTrialCropsAtOnce));
  };
  const int64_t steps = (count + kTrialCropsAtOnce - 1) / kTrialCropsAtOnce;
  FeatureLoader loader = features.loader(backbone, steps, part, err);
  std::vector<Tensor> maps, labels;
  for (int64_t step = 0; step < steps; ++step) {
    const Tensor whole = loader.next();
    const int64_t every = (std::min(whole.size(2), whole.size(3)) + kPatchesOfSide - 1) / kPatchesOfSide;
    const auto thinned = [&](const Tensor& map, int64_t dim, int64_t step_of) {
      return map.slice(dim, step_of / 2, map.size(dim), step_of);
    };
    maps.push_back(thinned(thinned(whole, 2, every), 3, every).contiguous());
    if (!labelled) continue;
    const int64_t patch = backbone.patch_size(), side = patch * whole.size(2);
    const Tensor pixels = features.crops().labels(part(step), side, workers);
    // The pixel in the middle of each patch, and then the patches that are taken.
    const Tensor patches = thinned(thinned(pixels, 1, patch), 2, patch);
    labels.push_back(thinned(thinned(patches, 1, every), 2, every).contiguous());
  }
  return {torch::cat(maps), labelled ? std::optional(torch::cat(labels)) : std::nullopt};
}

ClassCount counted_classes(const TrialData& data, uint64_t seed) {
  const int64_t patches = data.features.numel() / data.features.size(1), wanted = ClassCountOptions().num_clusters();
  TORCH_CHECK(patches >= wanted, "--classes auto: expected at least ", wanted, " patches to count classes by, found ",
              patches, ": say how many there are");
  return functional::class_count(data.features, {},
                                 at::make_generator<at::CPUGeneratorImpl>(mix_seed(seed, SeedPurpose::kClassCount)));
}

Trial::Trial(const Model& base, const ModelSettings& settings, const Tensor& features)
    : model_(trial_model(base, settings, features.device())), features_(features), learner_(model_) {}

void Trial::learn(int64_t steps) {
  const int64_t batch = std::min(settings().batch, features_.size(0));
  while (model_.step < steps) {
    const auto crops = batch_indices(model_.step, batch, features_.size(0), settings().seed);
    const Tensor indices = smooseg::detail::to_device(torch::tensor(crops, torch::kInt64), features_.device());
    learner_.step(features_.index_select(0, indices));
  }
}

Tensor Trial::classes() {
  std::vector<Tensor> parts;
  for (const Tensor& part : features_.split(kTrialCropsAtOnce)) parts.push_back(logits(part).argmax(1));
  return torch::cat(parts);
}

Tensor Trial::assignments(int64_t crops) {
  const Tensor some = features_.slice(0, 0, crops);
  return functional::soft_assignments(logits(some), settings().temperature);
}

/// The teacher's, without dropout.
Tensor Trial::logits(const Tensor& features) {
  const torch::NoGradGuard no_grad;
  const Tensor code = model_.segmenter->projector->code(features);
  return functional::prototype_logits(model_.segmenter->predictor->teacher, code);
}

}  // namespace smooseg::app
