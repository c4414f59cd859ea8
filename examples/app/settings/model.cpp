#include "settings/model.hpp"

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <type_traits>

#include "smooseg/backbone/registry.hpp"
#include "smooseg/version.hpp"

namespace smooseg::app {
namespace {

constexpr auto kBackbone = "Backbone", kCrops = "Training crops", kModel = "Model", kEnergy = "Energy",
               kTraining = "Training";

bool is_in(SettingScope scope, const std::string& group) {
  return scope == SettingScope::kAll || group == kBackbone || group == kCrops;
}

/// The one list of settings: calls add(group, option, value, description) for each, which returns a CLI11 option.
template <class Add>
void list_settings(ModelSettings& s, Add add) {
  using Words = std::vector<std::string>;
  add(kBackbone, "--backbone", s.backbone, "what turns pictures into features")->check(CLI::IsMember(backbone_names()));
  add(kBackbone, "--features", s.features, "of a transformer: its tokens, or the keys of its last attention")
      ->check(CLI::IsMember(Words{"tokens", "keys"}));
  add(kBackbone, "--textons", s.textons, "of texture: number of textons")->check(from_to(1, 1 << 16));
  add(kBackbone, "--texton-sharpness", s.texton_sharpness, "of texture: how firmly a patch goes to its nearest textons")
      ->check(CLI::PositiveNumber);
  add(kBackbone, "--position", s.position,
      "of texture: weight of the height in the picture; 0 where pictures have no up")
      ->check(CLI::NonNegativeNumber);

  add(kCrops, "--crops", s.crops, "crops of each picture: its center, or five")
      ->check(CLI::IsMember(Words{"center", "five"}));
  add(kCrops, "--resolution", s.resolution, "side of the training crops in pixels")->check(side());
  add(kCrops, "--feature-dtype", s.feature_dtype, "to which the crops' features are rounded: float16 halves the space")
      ->check(CLI::IsMember(Words{"float32", "float16"}));

  add(kModel, "--classes", s.classes, "number of classes K, 2 to 255; 0: as many as classes.json names")
      ->check(from_to(0, 255));
  add(kModel, "--embed-dim", s.embed_dim, "channels D of the code")->check(from_to(1, 1 << 16));
  add(kModel, "--dropout", s.dropout, "probability of dropping a channel in training")->check(CLI::Range(0.0, 0.999));
  add(kModel, "--momentum", s.momentum, "alpha of the teacher's moving average")->check(CLI::Range(0.0, 1.0));

  add(kEnergy, "--within-threshold", s.within_threshold,
      "closeness above which patches of one image are pulled together; default: the backbone's");
  add(kEnergy, "--across-threshold", s.across_threshold,
      "closeness above which patches of two images are pulled together; default: the backbone's");
  add(kEnergy, "--temperature", s.temperature, "tau of the teacher's softmax")->check(CLI::PositiveNumber);
  add(kEnergy, "--centering", s.centering,
      "of the closeness: row-keep-mean as the published program, row as the paper, or none")
      ->check(CLI::IsMember(kCenterings));
  add(kEnergy, "--reduction", s.reduction, "over images and pairs: mean as the published program, or sum as the paper")
      ->check(CLI::IsMember(kReductions));

  add(kTraining, "--batch", s.batch, "crops in a step, at least 2")->check(at_least(1));
  add(kTraining, "--projector-rate", s.projector_rate, "Adam's learning rate for the projector")
      ->check(CLI::NonNegativeNumber);
  add(kTraining, "--predictor-rate", s.predictor_rate, "Adam's learning rate for the prototypes")
      ->check(CLI::NonNegativeNumber);
  add(kTraining, "--teacher-update", s.teacher_update,
      "before the optimiser's step as the published program, or after it as the paper's pseudo-code")
      ->check(CLI::IsMember(Words{"before", "after"}));
  add(kTraining, "--seed", s.seed, "decides every random draw");
}

}  // namespace

std::vector<std::string> backbone_names(bool only_with_weights) {
  std::vector<std::string> names;
  for (const auto& entry : backbone::registry()) {
    if (!only_with_weights || !entry.weights.file.empty()) names.push_back(entry.name);
  }
  return names;
}

SettingValues values_of(const ModelSettings& settings, SettingScope scope) {
  CLI::App unused;
  ModelSettings copy = settings;
  SettingValues result;
  list_settings(copy, [&](const char* group, const char* name, auto& value, const char* description) {
    const auto note = [&](const auto& set) {
      const nlohmann::json json = set;  // prints a number with all the digits it needs
      if (is_in(scope, group)) result[name + 2] = json.is_string() ? json.template get<std::string>() : json.dump();
    };
    if constexpr (std::is_same_v<decltype(value), std::optional<double>&>) {
      if (value) note(*value);
    } else {
      note(value);
    }
    return unused.add_option(name, value, description);
  });
  return result;
}

void add_options(CLI::App& command, ModelSettings& settings, SettingScope scope) {
  CLI::App others;
  list_settings(settings, [&](const char* group, const char* name, auto& value, const char* description) {
    CLI::App& app = is_in(scope, group) ? command : others;
    return app.add_option(name, value, description)->capture_default_str()->group(group);
  });
}

ModelSettings settings_from(const SettingValues& values, const std::string& source) {
  CLI::App app;
  ModelSettings settings;
  add_options(app, settings);
  check_numbers(app);
  std::vector<std::string> arguments;
  for (const auto& [name, value] : values) arguments.push_back("--" + name + "=" + value);
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& e) {
    throw std::runtime_error(source + ": its settings do not fit this version (" SMOOSEG_VERSION "): " + e.what());
  }
  return settings;
}

void choose_thresholds(ModelSettings& settings) {
  const auto& entry = backbone::find(settings.backbone);
  settings.within_threshold = settings.within_threshold.value_or(entry.within_threshold);
  settings.across_threshold = settings.across_threshold.value_or(entry.across_threshold);
}

torch::ScalarType feature_dtype(const ModelSettings& settings) {
  return settings.feature_dtype == "float16" ? torch::kFloat16 : torch::kFloat32;
}

EnergyOptions energy_options(const ModelSettings& settings) {
  return EnergyOptions()
      .smoothness(SmoothnessOptions()
                      .within_threshold(settings.within_threshold.value())
                      .across_threshold(settings.across_threshold.value())
                      .centering(kCenterings.at(settings.centering))
                      .reduction(kReductions.at(settings.reduction)))
      .temperature(settings.temperature);
}

}  // namespace smooseg::app
