#include "features/features.hpp"

#include <torch/version.h>

#include <stdexcept>

#include "features/weight_files.hpp"
#include "smooseg/backbone/registry.hpp"
#include "smooseg/backbone/texture.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/version.hpp"
#include "support/profiler.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {
void add_options(CLI::App& command, FeatureSettings& settings) {
  command
      .add_option("--cache", settings.cache,
                  "folder to keep the training crops' features in, for later runs and runs at the same time")
      ->type_name("DIR");
  command.add_option("--cache-memory", settings.cache_memory, "GiB of features to keep in memory at most")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command
      .add_option("--workers", settings.workers,
                  "threads that decode pictures and read features ahead; 0: as many as --threads")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
}

int worker_count(const FeatureSettings& settings, const RuntimeSettings& runtime) {
  return settings.workers > 0 ? settings.workers : thread_count(runtime);
}

Crops training_crops(const Dataset& dataset, const ModelSettings& settings) {
  return {dataset, settings.resolution, settings.crops == "five"};
}

std::string data_hash(const std::vector<Hash>& pictures) {
  std::string text;
  for (const Hash& picture : pictures) text += picture.hex();
  return hash_of(text).hex();
}

std::string chosen_weights(const ModelSettings& settings, const std::string& given) {
  const auto& entry = backbone::find(settings.backbone);
  if (settings.features == "keys" && !entry.has_keys) {
    throw std::runtime_error("--features: the backbone '" + settings.backbone + "' has no keys");
  }
  if (!entry.weights.file.empty()) return weights_for(entry, given);
  if (!given.empty()) {
    throw std::runtime_error("--weights: the backbone '" + settings.backbone +
                             "' has none; choose another with --backbone");
  }
  return given;
}

void prepare_backbone(backbone::Backbone& backbone, const ModelSettings& settings, const std::string& weights,
                      const Crops& crops, torch::Device device, int workers, std::ostream& err) {
  if (auto* texture = dynamic_cast<backbone::TextureImpl*>(&backbone)) {
    err << "learning textons from " << crops.count() << " crops" << std::endl;
    texture->to(device);
    const auto generator = at::make_generator<at::CPUGeneratorImpl>(mix_seed(settings.seed, SeedPurpose::kTextons));
    std::unique_ptr<Pipeline<Tensor>> pictures;
    const auto announce = [&](const std::vector<int64_t>& order) {
      pictures = std::make_unique<Pipeline<Tensor>>(
          static_cast<int64_t>(order.size()), workers, 2 * workers, [&crops, order](int64_t i) {
            return timed("decode", [&] { return crops.images({order[static_cast<std::size_t>(i)]}); });
          });
    };
    timed("textons", [&] {
      texture->fit([&](int64_t) { return pictures->next().to(device); }, crops.count(), generator, announce);
    });
    return;
  }
  const auto report = io::load(backbone, weights);
  err << weights << ": " << report.message() << std::endl;
  backbone.to(device);
}

void check_patches(const ModelSettings& settings, const backbone::Backbone& backbone) {
  const int64_t patch = backbone.patch_size();
  if (settings.resolution % patch != 0) {
    throw std::runtime_error("--resolution: expected a multiple of the backbone's patch of " + std::to_string(patch) +
                             " pixels, got " + std::to_string(settings.resolution));
  }
}

FeatureSource feature_source(const ModelSettings& settings, const FeatureSettings& features, const Crops& crops,
                             backbone::Backbone& backbone, torch::Device device, int workers) {
  constexpr double kGiB = 1 << 30;
  return {crops,
          backbone,
          device,
          settings.feature_dtype == "float16" ? torch::kFloat16 : torch::kFloat32,
          static_cast<int64_t>(features.cache_memory * kGiB),
          workers};
}

std::unique_ptr<FeatureCache> feature_cache(const ModelSettings& settings, const FeatureSettings& features,
                                            const FeatureSource& source, const std::vector<Hash>& pictures,
                                            int threads) {
  if (features.cache.empty()) return nullptr;
  FeatureRecipe recipe = feature_settings(settings);
  recipe["weights"] = hash_of(source.backbone).hex();
  recipe["smooseg"] = SMOOSEG_VERSION;
  // Other releases and devices round otherwise.
  recipe["libtorch"] = TORCH_VERSION;
  recipe["device"] = source.device.is_cuda() ? "cuda" : "cpu";
  return std::make_unique<FeatureCache>(features.cache, recipe, pictures, source.crops, feature_shape(source),
                                        source.dtype, threads);
}

}  // namespace smooseg::app
