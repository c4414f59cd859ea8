#include "features/training_features.hpp"

#include <torch/version.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "features/weight_files.hpp"
#include "smooseg/backbone/exported.hpp"
#include "smooseg/backbone/registry.hpp"
#include "smooseg/backbone/texture.hpp"
#include "smooseg/detail/host_copy.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/position_free.hpp"
#include "smooseg/version.hpp"
#include "support/pipeline.hpp"
#include "support/profiler.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {

std::string chosen_weights(const ModelSettings& settings, const std::string& given) {
  const auto* const entry = registry_entry(settings.backbone);
  if (settings.features == "keys" && (entry == nullptr || !entry->has_keys())) {
    throw std::runtime_error("--features: the backbone '" + settings.backbone + "' has no keys");
  }
  if (entry != nullptr && !entry->weights.file.empty()) return weights_for(*entry, given);
  if (settings.backbone == kExportedBackbone) {
    if (!given.empty()) return given;
    throw std::runtime_error(
        "--weights: the backbone 'exported' is a module exported from Python: name its file (.pt, .pt2), as "
        "examples/python/export_backbone.py writes it");
  }
  if (!given.empty()) {
    throw std::runtime_error("--weights: the backbone '" + settings.backbone +
                             "' has none; choose another with --backbone");
  }
  return given;
}

Crops crops_of(const Dataset& dataset, const ModelSettings& model, const std::optional<FeatureFiles>& files) {
  const bool five = model.crops == "five";
  if (model.backbone != kFeaturesBackbone) return {dataset, model.resolution, five};
  if (five)
    throw std::runtime_error("--crops five: features of files are those of whole pictures; take --crops center");
  TORCH_CHECK(files, "--features-dir: this command does not take the backbone '", kFeaturesBackbone, "'");
  return {dataset, *files};
}

namespace {

/// The crops, where the settings of features go with them.
Crops checked_crops(const Dataset& dataset, const ModelSettings& model, const FeatureSettings& settings,
                    const std::optional<FeatureFiles>& files) {
  if (model.backbone == kFeaturesBackbone && !settings.cache.empty()) {
    throw std::runtime_error("--cache: features of files are not computed, so there is nothing to keep");
  }
  if (model.backbone == kFeaturesBackbone && model.debias > 0) {
    throw std::runtime_error("--debias: of features of files there are none of a blank picture; take 0");
  }
  return crops_of(dataset, model, files);
}

}  // namespace

TrainingFeatures::TrainingFeatures(const Dataset& dataset, const ModelSettings& model, const FeatureSettings& settings,
                                   torch::Device device, int workers, const std::optional<FeatureFiles>& files,
                                   std::shared_ptr<Processes> processes)
    : crops_(checked_crops(dataset, model, settings, files)),
      model_(model),
      settings_(settings),
      device_(device),
      workers_(workers),
      processes_(std::move(processes)) {}

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
  const int64_t patch = backbone.patch_size(), side = crops_.resolution();
  if (side % patch != 0) {
    throw std::runtime_error("--resolution: expected a multiple of the backbone's patch of " + std::to_string(patch) +
                             " pixels, got " + std::to_string(side));
  }
  if (const auto* const exported = dynamic_cast<backbone::ExportedImpl*>(&backbone)) {
    if (exported->image_size() > 0 && exported->image_size() != side) {
      throw std::runtime_error("--resolution: expected " + std::to_string(exported->image_size()) +
                               ", the side of the pictures that " + weights + " was exported for, got " +
                               std::to_string(side));
    }
    err << weights << ": a module that gives " << exported->channels() << " channels for patches of " << patch
        << " pixels" << std::endl;
  } else if (!weights.empty()) {
    err << weights << ": " << io::load(backbone, weights).message() << std::endl;
  }
  backbone.to(device_);
  if (!weights.empty()) return;
  const auto images = [&](const std::vector<int64_t>& numbers) -> backbone::ImageStream {
    err << "fitting the backbone to " << numbers.size() << " crops" << std::endl;
    const auto ahead = std::make_shared<Pipeline<Tensor>>(
        static_cast<int64_t>(numbers.size()), workers_, 2 * workers_,
        [this, numbers, with = normalization_of(backbone)](int64_t i) {
          return timed("decode", [&] { return crops_.images({numbers[static_cast<std::size_t>(i)]}, with); });
        });
    return [this, ahead] { return smooseg::detail::to_device(ahead->next(), device_); };
  };
  if (auto* const texture = dynamic_cast<backbone::TextureImpl*>(&backbone); texture && processes_->several()) {
    texture->options.exchange(processes_);
  }
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(mix_seed(model_.seed, SeedPurpose::kBackbone));
  timed("fit", [&] { backbone.fit(images, crops_.count(), generator); });
}

Tensor TrainingFeatures::position_basis(backbone::Backbone& backbone) const {
  if (model_.debias == 0) return {};
  const torch::NoGradGuard no_grad;
  const int64_t side = crops_.resolution();
  const Tensor blank = backbone.features(torch::zeros({1, 3, side, side}, device_));  // the mean colour
  try {
    return functional::position_basis(blank, model_.debias);
  } catch (const c10::Error& e) {
    throw std::runtime_error(std::string("--debias: ") + e.what_without_backtrace());
  }
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
  return {crops_,   backbone,  device_, feature_dtype(model_), static_cast<int64_t>(settings_.cache_memory * kGiB),
          workers_, processes_};
}

/// The cache in the folder of `--cache`.
std::unique_ptr<FeatureCache> TrainingFeatures::cache(const FeatureSource& source) {
  FeatureRecipe recipe = values_of(model_, SettingScope::kFeatures);
  recipe["weights"] = hash_of(source.backbone).hex();
  const Normalization with = normalization_of(source.backbone);
  recipe["normalization"] = nlohmann::json({with.mean, with.std}).dump();
  if (const auto* const exported = dynamic_cast<backbone::ExportedImpl*>(&source.backbone)) {
    recipe["module"] = hash_of_file(exported->path()).hex();
  }
  recipe["smooseg"] = SMOOSEG_VERSION;
  // Other releases and devices round otherwise.
  recipe["libtorch"] = TORCH_VERSION;
  recipe["device"] = c10::DeviceTypeName(device_.type(), /*lower_case=*/true);
  return std::make_unique<FeatureCache>(settings_.cache, recipe, picture_hashes(), crops_, feature_shape(source),
                                        source.dtype, workers_);
}

}  // namespace smooseg::app
