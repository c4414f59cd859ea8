#include "settings/model.hpp"

#include <array>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "smooseg/backbone/registry.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/version.hpp"

namespace smooseg::app {
namespace {

constexpr auto kFormatName = "smooseg model ";
constexpr auto kFormat = "smooseg model 1";
constexpr auto kExtraPrefix = "optimizer.";

/// The settings that decide the features of training crops.
bool decides_features(const std::string& option) {
  static const std::set<std::string> names{"--backbone", "--features",   "--textons", "--texton-sharpness",
                                           "--position", "--resolution", "--crops",   "--feature-dtype"};
  return names.count(option) > 0;
}

std::vector<std::string> backbone_names() {
  std::vector<std::string> names;
  for (const auto& entry : backbone::registry()) names.push_back(entry.name);
  return names;
}

backbone::BackboneOptions backbone_options(const ModelSettings& settings) {
  return backbone::BackboneOptions(settings.features == "keys" ? backbone::FeatureKind::kKeys
                                                               : backbone::FeatureKind::kTokens)
      .texture(backbone::TextureOptions()
                   .textons(settings.textons)
                   .sharpness(settings.texton_sharpness)
                   .position(settings.position));
}

Model assemble(const ModelSettings& settings, const ClassTable& classes, const SegmenterOptions& options) {
  auto backbone = make_backbone(settings);
  const int64_t channels = backbone->channels();
  Model model;
  model.settings = settings;
  model.classes = classes;
  model.segmenter = Segmenter(
      std::move(backbone), Projector(ProjectorOptions(channels, settings.embed_dim).dropout(settings.dropout)),
      PrototypePredictor(PrototypePredictorOptions(settings.classes, settings.embed_dim).momentum(settings.momentum)),
      options);
  return model;
}

const std::string& metadata_at(const std::map<std::string, std::string>& metadata, const std::string& key,
                               const std::string& path) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) {
    throw std::runtime_error(path + ": not a model of smooseg: its metadata has no '" + key + "'");
  }
  return found->second;
}

/// The one list of settings: calls add(option, value, description) for each, which returns a CLI11 option.
template <class Add>
void list_settings(ModelSettings& s, Add add) {
  const auto positive = CLI::Range(int64_t{1}, int64_t{1} << 40);
  add("--backbone", s.backbone, "where features come from")->check(CLI::IsMember(backbone_names()))->group("Backbone");
  add("--features", s.features, "which of a transformer's: its tokens, or the keys of its last attention")
      ->check(CLI::IsMember({"tokens", "keys"}))
      ->group("Backbone");
  add("--textons", s.textons, "of texture: number of textons")->check(positive)->group("Backbone");
  add("--texton-sharpness", s.texton_sharpness, "of texture: how firmly a patch goes to its nearest textons")
      ->check(CLI::PositiveNumber)
      ->group("Backbone");
  add("--position", s.position, "of texture: weight of the height in the picture; 0 where pictures have no up")
      ->check(CLI::NonNegativeNumber)
      ->group("Backbone");

  add("--classes", s.classes, "number of classes K, 2 to 255; 0: as many as classes.json names")
      ->check(CLI::Range(int64_t{0}, int64_t{255}))
      ->group("Model");
  add("--embed-dim", s.embed_dim, "channels D of the code")->check(positive)->group("Model");
  add("--dropout", s.dropout, "probability of dropping a channel in training")
      ->check(CLI::Range(0.0, 0.999))
      ->group("Model");
  add("--momentum", s.momentum, "alpha of the teacher's moving average")->check(CLI::Range(0.0, 1.0))->group("Model");

  add("--within-threshold", s.within_threshold, "b of the pairs within an image")->group("Energy");
  add("--across-threshold", s.across_threshold, "b of the pairs of two images")->group("Energy");
  add("--temperature", s.temperature, "tau of the teacher's softmax")->check(CLI::PositiveNumber)->group("Energy");
  add("--centering", s.centering, "of the closeness: the published program's row-keep-mean, the paper's row, or none")
      ->check(CLI::IsMember({"row-keep-mean", "row", "none"}))
      ->group("Energy");
  add("--reduction", s.reduction, "over images and pairs: the published program's mean or the paper's sum")
      ->check(CLI::IsMember({"mean", "sum"}))
      ->group("Energy");

  add("--resolution", s.resolution, "side of the training crops in pixels")
      ->check(CLI::Range(int64_t{1}, int64_t{8192}))
      ->group("Training");
  add("--crops", s.crops, "crops of each picture: its center, or five")
      ->check(CLI::IsMember({"center", "five"}))
      ->group("Training");
  add("--feature-dtype", s.feature_dtype, "to which the crops' features are rounded: float16 takes half the space")
      ->check(CLI::IsMember({"float32", "float16"}))
      ->group("Training");
  add("--batch", s.batch, "crops in a step, at least 2")->check(positive)->group("Training");
  add("--projector-rate", s.projector_rate, "Adam's learning rate for the projector")
      ->check(CLI::NonNegativeNumber)
      ->group("Training");
  add("--predictor-rate", s.predictor_rate, "Adam's learning rate for the prototypes")
      ->check(CLI::NonNegativeNumber)
      ->group("Training");
  add("--teacher-update", s.teacher_update,
      "before the optimiser's step (the published program) or after it (the paper's pseudo-code)")
      ->check(CLI::IsMember({"before", "after"}))
      ->group("Training");
  add("--seed", s.seed, "decides every random draw")->group("Training");
}

}  // namespace

void add_options(CLI::App& command, ModelSettings& settings) {
  list_settings(settings, [&](const char* name, auto& value, const char* description) {
    return command.add_option(name, value, description)->capture_default_str();
  });
}

void add_feature_options(CLI::App& command, ModelSettings& settings) {
  CLI::App others;
  list_settings(settings, [&](const char* name, auto& value, const char* description) {
    CLI::App& app = decides_features(name) ? command : others;
    return app.add_option(name, value, description)->capture_default_str();
  });
}

SettingValues feature_settings(const ModelSettings& settings) {
  SettingValues values = values_of(settings);
  for (auto it = values.begin(); it != values.end();) {
    it = decides_features("--" + it->first) ? std::next(it) : values.erase(it);
  }
  return values;
}

SettingValues values_of(const ModelSettings& settings) {
  CLI::App unused;
  ModelSettings copy = settings;
  SettingValues values;
  list_settings(copy, [&](const char* name, auto& value, const char* description) {
    const nlohmann::json json = value;  // prints a number with all the digits it needs
    values[name + 2] = json.is_string() ? json.template get<std::string>() : json.dump();
    return unused.add_option(name, value, description);
  });
  return values;
}

ModelSettings settings_from(const SettingValues& values, const std::string& source) {
  CLI::App app;
  ModelSettings settings;
  add_options(app, settings);
  std::vector<std::string> arguments;
  for (const auto& [name, value] : values) arguments.push_back("--" + name + "=" + value);
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& e) {
    throw std::runtime_error(source + ": its settings do not fit this version (" SMOOSEG_VERSION "): " + e.what());
  }
  return settings;
}

EnergyOptions energy_options(const ModelSettings& settings) {
  static const std::map<std::string, Centering> kCenterings{
      {"none", Centering::kNone}, {"row", Centering::kRow}, {"row-keep-mean", Centering::kRowKeepMean}};
  return EnergyOptions()
      .smoothness(SmoothnessOptions()
                      .within_threshold(settings.within_threshold)
                      .across_threshold(settings.across_threshold)
                      .centering(kCenterings.at(settings.centering))
                      .reduction(settings.reduction == "sum" ? Reduction::kSum : Reduction::kMean))
      .temperature(settings.temperature);
}

std::shared_ptr<backbone::Backbone> make_backbone(const ModelSettings& settings) {
  auto backbone = backbone::make(settings.backbone, backbone_options(settings));
  backbone->eval();
  for (auto& parameter : backbone->parameters()) parameter.requires_grad_(false);
  return backbone;
}

Model make_model(const ModelSettings& settings, const ClassTable& classes) {
  return assemble(settings, classes, {});
}

void save_model(const std::filesystem::path& path, const Model& model, const io::TensorMap& extra) {
  io::TensorMap tensors = io::tensors_of(*model.segmenter);
  tensors.insert(extra.begin(), extra.end());
  io::write_safetensors(path.string(), tensors,
                        {{"format", kFormat},
                         {"version", SMOOSEG_VERSION},
                         {"step", std::to_string(model.step)},
                         {"data", model.data},
                         {"settings", nlohmann::json(values_of(model.settings)).dump()},
                         {"classes", classes_to_json(model.classes)}});
}

bool is_model(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<char, 9> beginning{};
  file.read(beginning.data(), beginning.size());
  if (!file || beginning.back() != '{') return false;  // no safetensors
  const auto metadata = io::read_safetensors_metadata(path.string());
  const auto format = metadata.find("format");
  return format != metadata.end() && format->second.rfind(kFormatName, 0) == 0;
}

LoadedModel load_model(const std::filesystem::path& path, torch::Device device, const SegmenterOptions& options) {
  const std::string name = path.string();
  io::TensorMap tensors = io::read_safetensors(name);
  const auto metadata = io::read_safetensors_metadata(name);
  if (metadata_at(metadata, "format", name) != kFormat) {
    throw std::runtime_error(name + ": expected the format '" + kFormat + "', found '" + metadata.at("format") + "'");
  }
  SettingValues values;
  int64_t step = 0;
  try {
    values = nlohmann::json::parse(metadata_at(metadata, "settings", name)).get<SettingValues>();
    step = std::stoll(metadata_at(metadata, "step", name));
  } catch (const nlohmann::json::exception& e) {
    throw std::runtime_error(name + ": damaged settings: " + e.what());
  } catch (const std::logic_error&) {
    throw std::runtime_error(name + ": damaged metadata: 'step' is '" + metadata.at("step") + "'");
  }
  LoadedModel loaded;
  const ClassTable classes = classes_from_json(metadata_at(metadata, "classes", name), name);
  loaded.model = assemble(settings_from(values, name), classes, options);
  loaded.model.step = step;
  if (const auto data = metadata.find("data"); data != metadata.end()) loaded.model.data = data->second;
  for (auto it = tensors.begin(); it != tensors.end();) {
    const bool is_extra = it->first.rfind(kExtraPrefix, 0) == 0;
    if (is_extra) loaded.extra.insert(*it);
    it = is_extra ? tensors.erase(it) : std::next(it);
  }
  io::load_tensors(*loaded.model.segmenter, tensors, {}, name);
  loaded.model.segmenter->to(device);
  loaded.model.segmenter->eval();
  return loaded;
}

}  // namespace smooseg::app
