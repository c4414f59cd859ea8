#include "settings/model.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
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

/// Three numbers, one a colour. @param divides whether they must be above 0.
CLI::Validator three_numbers(bool divides) {
  const auto check = [divides](const std::string& text) -> std::string {
    const auto values = channels_from(text);
    const bool right =
        values && (!divides || std::all_of(values->begin(), values->end(), [](double v) { return v > 0; }));
    return right
               ? ""
               : std::string("expected three numbers") + (divides ? " above 0" : "") + " as R,G,B, got '" + text + "'";
  };
  return CLI::Validator(check, "R,G,B");
}

/// "WITHIN,ACROSS" as two numbers; nothing for any other text.
std::optional<Thresholds> thresholds_from(const std::string& text) {
  std::istringstream words(text);
  Thresholds values;
  char comma = ' ';
  if (!(words >> values.within >> comma >> values.across) || comma != ',' || !words.eof()) return std::nullopt;
  return values;
}

/// What follows "auto:"; nothing for any other text.
std::optional<std::string> start_text(const std::string& thresholds) {
  const std::string prefix = std::string(kAutomaticThresholds) + ":";
  if (thresholds.compare(0, prefix.size(), prefix) != 0) return std::nullopt;
  return thresholds.substr(prefix.size());
}

CLI::Validator thresholds_validator() {
  const auto check = [](const std::string& text) -> std::string {
    if (text == kAutomaticThresholds || text == kPresetThresholds) return {};
    if (thresholds_from(start_text(text).value_or(text))) return {};
    return "expected auto, auto:WITHIN,ACROSS, preset, or two numbers as WITHIN,ACROSS, got '" + text + "'";
  };
  return CLI::Validator(check, "auto|preset|WITHIN,ACROSS");
}

/// Takes numbers and "auto", which becomes the number that stands for it.
CLI::Validator classes_validator() {
  const auto translate = [](std::string& text) -> std::string {
    const std::string automatic = std::to_string(kAutomaticClasses);
    if (text == "auto") text = automatic;
    if (text == automatic) return {};
    const std::string wrong = check_whole_number<int64_t>(text);
    if (!wrong.empty()) return wrong + "; or auto";
    const int64_t classes = std::stoll(text);
    return classes >= 0 && classes <= 255 ? "" : "expected auto, or 0 to 255, got " + text;
  };
  return CLI::Validator().operation(translate);
}

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

/// The one list of settings: calls add(group, option, value, description) for each, which returns a CLI11 option.
template <class Add>
void list_settings(ModelSettings& s, Add add) {
  using Words = std::vector<std::string>;
  add(kBackbone, "--backbone", s.backbone,
      "what turns pictures into features: a network by its name; exported: the module of --weights; features: files "
      "of --features-dir")
      ->check(CLI::IsMember(backbone_names()));
  add(kBackbone, "--features", s.features, "of a transformer: its tokens, or the keys of its last attention")
      ->check(CLI::IsMember(Words{"tokens", "keys"}));
  add(kBackbone, "--textons", s.textons, "of texture: number of textons")->check(from_to(1, 1 << 16));
  add(kBackbone, "--texton-sharpness", s.texton_sharpness, "of texture: how firmly a patch goes to its nearest textons")
      ->check(CLI::PositiveNumber);
  add(kBackbone, "--position", s.position,
      "of texture: weight of the height in the picture; 0 where pictures have no up")
      ->check(CLI::Range(0.0, 1000.0));
  add(kBackbone, "--exported-patch", s.exported_patch,
      "of exported: side of a patch in pixels; default: as its file says")
      ->check(from_to(1, 8192));
  add(kBackbone, "--exported-skip-tokens", s.exported_skip_tokens,
      "of exported: tokens before those of the patches; default: as its file says, else 0")
      ->check(from_to(0, 1 << 20));
  add(kBackbone, "--exported-image-size", s.exported_image_size,
      "of exported: side in pixels of the squares that it takes, if no others; default: as its file says, else any")
      ->check(from_to(1, 8192));
  add(kBackbone, "--exported-mean", s.exported_mean,
      "of exported: what is subtracted from pixels in 0..1; default: as its file says, else ImageNet's")
      ->check(three_numbers(/*divides=*/false));
  add(kBackbone, "--exported-std", s.exported_std,
      "of exported: what they are divided by then; default: as its file says, else ImageNet's")
      ->check(three_numbers(/*divides=*/true));

  add(kCrops, "--crops", s.crops, "crops of each picture: its center, or five")
      ->check(CLI::IsMember(Words{"center", "five"}));
  add(kCrops, "--resolution", s.resolution, "side of the training crops in pixels")->check(side());
  add(kCrops, "--feature-dtype", s.feature_dtype, "to which the crops' features are rounded: float16 halves the space")
      ->check(CLI::IsMember(Words{"float32", "float16"}));

  add(kModel, "--classes", s.classes,
      "number of classes K, 2 to 255; 0: as many as classes.json names; auto: as many as the features suggest")
      ->type_name("N|auto")
      ->transform(classes_validator());
  add(kModel, "--embed-dim", s.embed_dim, "channels D of the code")->check(from_to(1, 1 << 16));
  add(kModel, "--dropout", s.dropout, "probability of dropping a channel in training")->check(CLI::Range(0.0, 0.999));
  add(kModel, "--momentum", s.momentum, "alpha of the teacher's moving average")->check(CLI::Range(0.0, 1.0));

  add(kEnergy, "--debias", s.debias,
      "directions in which features tell a patch's place, left out of closeness; found from a blank picture; 0: none")
      ->check(from_to(0, 1 << 16));
  add(kEnergy, "--thresholds", s.thresholds,
      "auto: chosen while training, by the features and K; auto:WITHIN,ACROSS: likewise, from these on; preset: those "
      "known to suit the backbone; or two numbers as WITHIN,ACROSS: closeness above which patches of one image, and of "
      "two, are pulled together")
      ->check(thresholds_validator());
  add(kEnergy, "--within-threshold", s.within_threshold,
      "of one image; default: as --thresholds says, or the preset where the other is given");
  add(kEnergy, "--across-threshold", s.across_threshold, "of two images; default likewise");
  add(kEnergy, "--temperature", s.temperature, "tau of the teacher's softmax")->check(CLI::PositiveNumber);
  add(kEnergy, "--centering", s.centering,
      "of the closeness: row-keep-mean as the published program, row as the paper, or none")
      ->check(CLI::IsMember(kCenterings));
  add(kEnergy, "--reduction", s.reduction, "over images and pairs: mean as the published program, or sum as the paper")
      ->check(CLI::IsMember(kReductions));
  add(kEnergy, "--without", s.without,
      "train without a term: data, across, within, or smoothness, both of these; without data the teacher's prototypes "
      "are learned by the smoothness")
      ->check(CLI::IsMember(Words{"nothing", "data", "across", "within", "smoothness"}));
  add(kEnergy, "--across", s.across,
      "of several processes: each image is compared with one of its own process's batch, or with one of the global, of "
      "all processes")
      ->check(CLI::IsMember(Words{"own", "global"}));

  add(kTraining, "--batch", s.batch, "crops in a step, at least 2; of several processes, of each")->check(at_least(1));
  add(kTraining, "--projector-rate", s.projector_rate, "Adam's learning rate for the projector")
      ->check(CLI::NonNegativeNumber);
  add(kTraining, "--predictor-rate", s.predictor_rate, "Adam's learning rate for the prototypes")
      ->check(CLI::NonNegativeNumber);
  add(kTraining, "--teacher-update", s.teacher_update,
      "before the optimiser's step as the published program, or after it as the paper's pseudo-code")
      ->check(CLI::IsMember(Words{"before", "after"}));
  add(kTraining, "--restarts", s.restarts,
      "whether prototypes that no patch is nearest to are put elsewhere, or only reported; auto: where thresholds are "
      "automatic")
      ->check(CLI::IsMember(Words{"auto", "on", "off"}));
  add(kTraining, "--seed", s.seed, "decides every random draw");
}

}  // namespace

std::vector<std::string> backbone_names() {
  std::vector<std::string> names = network_names();
  names.insert(names.end(), {kExportedBackbone, kFeaturesBackbone});
  return names;
}

std::vector<std::string> network_names(bool only_with_weights) {
  std::vector<std::string> names;
  for (const auto& entry : backbone::registry()) {
    if (!only_with_weights || !entry.weights.file.empty()) names.push_back(entry.name);
  }
  return names;
}

const backbone::RegistryEntry* registry_entry(const std::string& backbone) {
  return backbone == kExportedBackbone || backbone == kFeaturesBackbone ? nullptr : &backbone::find(backbone);
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
    if constexpr (IsOptional<std::decay_t<decltype(value)>>::value) {
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
  const bool one_is_given = settings.within_threshold || settings.across_threshold;
  if (const auto told = thresholds_from(settings.thresholds)) {
    const auto is = [](const std::optional<double>& value, double other) { return !value || *value == other; };
    if (!is(settings.within_threshold, told->within) || !is(settings.across_threshold, told->across)) {
      throw std::runtime_error(
          "--thresholds: give both thresholds here, or each with --within-threshold and "
          "--across-threshold, got " +
          settings.thresholds + " and others");
    }
    settings.within_threshold = told->within;
    settings.across_threshold = told->across;
  }
  const bool automatic = settings.thresholds == kAutomaticThresholds || start_of_thresholds(settings);
  if (automatic && !one_is_given) return;
  const auto* const entry = registry_entry(settings.backbone);
  const SmoothnessOptions published;
  settings.within_threshold =
      settings.within_threshold.value_or(entry == nullptr ? published.within_threshold() : entry->within_threshold);
  settings.across_threshold =
      settings.across_threshold.value_or(entry == nullptr ? published.across_threshold() : entry->across_threshold);
}

std::optional<Thresholds> start_of_thresholds(const ModelSettings& settings) {
  const auto start = start_text(settings.thresholds);
  return start ? thresholds_from(*start) : std::nullopt;
}

std::optional<std::array<double, 3>> channels_from(const std::string& text) {
  std::array<double, 3> values{};
  std::istringstream words(text);
  char comma = ',';
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i > 0 && !(words >> comma && comma == ',')) return std::nullopt;
    if (!(words >> values[i])) return std::nullopt;
  }
  return words.peek() == std::istringstream::traits_type::eof() ? std::optional(values) : std::nullopt;
}

torch::ScalarType feature_dtype(const ModelSettings& settings) {
  return settings.feature_dtype == "float16" ? torch::kFloat16 : torch::kFloat32;
}

EnergyOptions energy_options(const ModelSettings& settings) {
  return EnergyOptions()
      .smoothness(SmoothnessOptions()
                      .within_threshold(settings.within_threshold.value_or(kWithinThreshold))
                      .across_threshold(settings.across_threshold.value_or(kAcrossThreshold))
                      .centering(kCenterings.at(settings.centering))
                      .reduction(kReductions.at(settings.reduction)))
      .temperature(settings.temperature);
}

}  // namespace smooseg::app
