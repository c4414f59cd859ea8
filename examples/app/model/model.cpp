#include "model/model.hpp"

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "smooseg/backbone/registry.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/version.hpp"

namespace smooseg::app {
namespace {

constexpr auto kFormatName = "smooseg model ";
constexpr auto kFormat = "smooseg model 1";
constexpr auto kExtraPrefix = "optimizer.";

const std::string& metadata_at(const std::map<std::string, std::string>& metadata, const std::string& key,
                               const std::string& path) {
  const auto found = metadata.find(key);
  TORCH_CHECK(found != metadata.end(), path, ": not a model of smooseg: its metadata has no '", key, "'");
  return found->second;
}

}  // namespace

std::shared_ptr<backbone::Backbone> make_backbone(const ModelSettings& settings) {
  const auto features = settings.features == "keys" ? backbone::FeatureKind::kKeys : backbone::FeatureKind::kTokens;
  const auto texture = backbone::TextureOptions()
                           .textons(settings.textons)
                           .sharpness(settings.texton_sharpness)
                           .position(settings.position);
  auto backbone = backbone::make(settings.backbone, backbone::BackboneOptions(features).texture(texture));
  backbone->eval();
  for (auto& parameter : backbone->parameters()) parameter.requires_grad_(false);
  return backbone;
}

Model make_model(const ModelSettings& settings, const ClassTable& classes, const SegmenterOptions& options) {
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
  try {
    return io::read_safetensors_metadata(path.string())["format"].rfind(kFormatName, 0) == 0;
  } catch (const c10::Error&) {  // no safetensors
    return false;
  }
}

LoadedModel load_model(const std::filesystem::path& path, torch::Device device, const SegmenterOptions& options) {
  const std::string name = path.string();
  const auto [tensors, metadata] = io::read_safetensors_content(name);
  const std::string& format = metadata_at(metadata, "format", name);
  TORCH_CHECK(format == kFormat, name, ": expected the format '", kFormat, "', found '", format, "'");
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
  loaded.model = make_model(settings_from(values, name), classes, options);
  loaded.model.step = step;
  if (const auto data = metadata.find("data"); data != metadata.end()) loaded.model.data = data->second;
  for (const auto& item : tensors) {
    if (item.first.rfind(kExtraPrefix, 0) == 0) loaded.extra.insert(item);
  }
  io::load_tensors(*loaded.model.segmenter, tensors, io::LoadOptions().ignore({kExtraPrefix}), name);
  loaded.model.segmenter->to(device);
  loaded.model.segmenter->eval();
  return loaded;
}

}  // namespace smooseg::app
