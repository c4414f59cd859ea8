#include "features/training_features.hpp"

#include <torch/version.h>

#include <stdexcept>
#include <utility>

#include "features/weight_files.hpp"
#include "smooseg/backbone/registry.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/version.hpp"
#include "support/pipeline.hpp"
#include "support/profiler.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {

std::string chosen_weights(const ModelSettings& settings, const std::string& given) {
  const auto& entry = backbone::find(settings.backbone);
  if (settings.features == "keys" && !entry.has_keys()) {
    throw std::runtime_error("--features: the backbone '" + settings.backbone + "' has no keys");
  }
  if (!entry.weights.file.empty()) return weights_for(entry, given);
  if (!given.empty()) {
    throw std::runtime_error("--weights: the backbone '" + settings.backbone +
                             "' has none; choose another with --backbone");
  }
  return given;
}

TrainingFeatures::TrainingFeatures(const Dataset& dataset, const ModelSettings& model, const FeatureSettings& settings,
                                   torch::Device device, int workers)
    : crops_(dataset, model.resolution, model.crops == "five"),
      model_(model),
      settings_(settings),
      device_(device),
      workers_(workers) {}

const std::vector<Hash>& TrainingFeatures::picture_hashes() {
  if (picture_hashes_.empty()) {
    picture_hashes_ = timed("hash", [this] { return crops_.picture_hashes(workers_); });
  }
  return picture_hashes_;
}

std::string TrainingFeatures::data_hash() {
  std::string text;
  for (const Hash& picture : picture_hashes()) text += picture.hex();
  return hash_of(text).hex();
}

void TrainingFeatures::prepare(backbone::Backbone& backbone, const std::string& weights, std::ostream& err) const {
  const int64_t patch = backbone.patch_size();
  if (model_.resolution % patch != 0) {
    throw std::runtime_error("--resolution: expected a multiple of the backbone's patch of " + std::to_string(patch) +
                             " pixels, got " + std::to_string(model_.resolution));
  }
  if (!weights.empty()) err << weights << ": " << io::load(backbone, weights).message() << std::endl;
  backbone.to(device_);
  if (!weights.empty()) return;
  const auto images = [&](const std::vector<int64_t>& numbers) -> backbone::ImageStream {
    err << "fitting the backbone to " << numbers.size() << " crops" << std::endl;
    const auto ahead = std::make_shared<Pipeline<Tensor>>(
        static_cast<int64_t>(numbers.size()), workers_, 2 * workers_, [this, numbers](int64_t i) {
          return timed("decode", [&] { return crops_.images({numbers[static_cast<std::size_t>(i)]}); });
        });
    return [this, ahead] { return ahead->next().to(device_); };
  };
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(mix_seed(model_.seed, SeedPurpose::kBackbone));
  timed("fit", [&] { backbone.fit(images, crops_.count(), generator); });
}

void TrainingFeatures::fill_cache(backbone::Backbone& backbone, std::ostream& err) {
  const FeatureSource features = source(backbone);
  app::fill_cache(*cache(features), features, err);
}

FeatureLoader TrainingFeatures::loader(backbone::Backbone& backbone, int64_t count,
                                       std::function<std::vector<int64_t>(int64_t)> batch, std::ostream& err) {
  const FeatureSource features = source(backbone);
  return {features, settings_.cache.empty() ? nullptr : cache(features), count, std::move(batch), err};
}

FeatureSource TrainingFeatures::source(backbone::Backbone& backbone) const {
  constexpr double kGiB = 1 << 30;
  return {crops_,  backbone, device_, feature_dtype(model_), static_cast<int64_t>(settings_.cache_memory * kGiB),
          workers_};
}

/// The cache in the folder of `--cache`.
std::unique_ptr<FeatureCache> TrainingFeatures::cache(const FeatureSource& source) {
  FeatureRecipe recipe = values_of(model_, SettingScope::kFeatures);
  recipe["weights"] = hash_of(source.backbone).hex();
  recipe["smooseg"] = SMOOSEG_VERSION;
  // Other releases and devices round otherwise.
  recipe["libtorch"] = TORCH_VERSION;
  recipe["device"] = device_.is_cuda() ? "cuda" : "cpu";
  return std::make_unique<FeatureCache>(settings_.cache, recipe, picture_hashes(), crops_, feature_shape(source),
                                        source.dtype, workers_);
}

}  // namespace smooseg::app
