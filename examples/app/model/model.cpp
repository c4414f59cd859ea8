#include "model/model.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "features/feature_cache.hpp"
#include "smooseg/backbone/exported.hpp"
#include "smooseg/backbone/precomputed.hpp"
#include "smooseg/backbone/registry.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/version.hpp"
#include "support/hash.hpp"

namespace smooseg::app {
namespace {

constexpr auto kFormatName = "smooseg model ";
constexpr auto kModelFormat = "smooseg model 1";
constexpr std::array kExtraPrefixes{"optimizer.", "thresholds.", "restarts."};
constexpr auto kPositionBasis = "closeness.position_basis";

const std::string& metadata_at(const std::map<std::string, std::string>& metadata, const std::string& key,
                               const std::string& path) {
  const auto found = metadata.find(key);
  TORCH_CHECK(found != metadata.end(), path, ": not a model of smooseg: its metadata has no '", key, "'");
  return found->second;
}

io::SafetensorsContent read_model(const std::string& name) {
  try {
    return io::read_safetensors_content(name);
  } catch (const c10::Error& e) {
    throw std::runtime_error(std::string(e.what_without_backtrace()) + "; expected a model of smooseg train");
  }
}

backbone::ExportedOptions exported_options(const ModelSettings& settings) {
  backbone::ExportedOptions options;
  options.patch_size(settings.exported_patch.value_or(0)).skip_tokens(settings.exported_skip_tokens);
  options.image_size(settings.exported_image_size.value_or(0));
  if (settings.exported_mean) options.mean(channels_from(*settings.exported_mean));
  if (settings.exported_std) options.std(channels_from(*settings.exported_std));
  return options;
}

/// Checks that the module given is the one that a model was trained with.
void check_module(const std::string& model, const ModelSettings& settings, const std::string& expected,
                  const std::string& given) {
  const bool wanted = settings.backbone == kExportedBackbone;
  TORCH_CHECK(wanted || given.empty(), "--weights: ", model, " holds all of its backbone, '", settings.backbone,
              "'; only a module exported from Python must be named");
  if (!wanted) return;
  TORCH_CHECK(!given.empty(), "--weights: the backbone of ", model, " is a module exported from Python, which a model ",
              "file does not hold: name its file");
  const std::string found = sha256_of(given);
  TORCH_CHECK(found == expected, "--weights: expected the module that ", model, " was trained with, with the SHA-256 ",
              expected, ", found ", given, " with ", found);
}

/// What `save_model` wrote of `--debias`; undefined without.
Tensor position_basis_of(const io::TensorMap& tensors, const Model& model, const std::string& name,
                         torch::Device device) {
  if (model.settings.debias == 0) return {};
  const std::vector<int64_t> expected{model.segmenter->backbone->channels(), model.settings.debias};
  const auto found = tensors.find(kPositionBasis);
  TORCH_CHECK(found != tensors.end() && found->second.sizes() == torch::IntArrayRef(expected), name,
              ": damaged: has no '", kPositionBasis, "' of shape ", torch::IntArrayRef(expected),
              ", which its --debias ", model.settings.debias, " wants");
  return found->second.to(device, torch::kFloat32, /*non_blocking=*/false, /*copy=*/true);  // lets go of the file
}

/// Tiles of the one size that a module takes.
SegmenterOptions with_tiles_of(const backbone::Backbone& backbone, SegmenterOptions options) {
  const auto* const exported = dynamic_cast<const backbone::ExportedImpl*>(&backbone);
  if (exported == nullptr || exported->image_size() == 0) return options;
  const int64_t side = exported->image_size();
  return options.tile(side).overlap(std::min(options.overlap(), (side - 1) / 2));
}

}  // namespace

std::shared_ptr<backbone::Backbone> make_backbone(const ModelSettings& settings, const BackboneSource& source) {
  if (settings.backbone == kExportedBackbone) {
    return std::make_shared<backbone::ExportedImpl>(source.module, exported_options(settings));
  }
  if (settings.backbone == kFeaturesBackbone) return std::make_shared<backbone::PrecomputedImpl>(source.channels);
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

Segmenter make_segmenter(std::shared_ptr<backbone::Backbone> backbone, const ModelSettings& settings,
                         const SegmenterOptions& options) {
  const int64_t channels = backbone->channels();
  const SegmenterOptions fitting = with_tiles_of(*backbone, options);
  return Segmenter(
      std::move(backbone), Projector(ProjectorOptions(channels, settings.embed_dim).dropout(settings.dropout)),
      PrototypePredictor(PrototypePredictorOptions(settings.classes, settings.embed_dim).momentum(settings.momentum)),
      fitting);
}

Model make_model(const ModelSettings& settings, const ClassTable& classes, const SegmenterOptions& options,
                 const BackboneSource& source) {
  Model model;
  model.settings = settings;
  model.classes = classes;
  if (settings.backbone == kExportedBackbone) model.module = sha256_of(source.module);
  model.segmenter = make_segmenter(make_backbone(settings, source), settings, options);
  return model;
}

void save_model(const std::filesystem::path& path, const Model& model, const io::TensorMap& extra) {
  io::TensorMap tensors = io::tensors_of(*model.segmenter);
  tensors.insert(extra.begin(), extra.end());
  if (model.position_basis.defined()) tensors[kPositionBasis] = model.position_basis;
  std::map<std::string, std::string> metadata{{"format", kModelFormat},
                                              {"version", SMOOSEG_VERSION},
                                              {"checksum", hash_of(tensors).hex()},
                                              {"step", std::to_string(model.step)},
                                              {"data", model.data},
                                              {"settings", nlohmann::json(values_of(model.settings)).dump()},
                                              {"classes", classes_to_json(model.classes)}};
  if (!model.module.empty()) metadata["module"] = model.module;
  if (model.processes > 1) metadata["processes"] = std::to_string(model.processes);
  io::write_safetensors(path.string(), tensors, metadata);
}

io::TensorMap tensors_under(const std::string& prefix, const io::TensorMap& tensors) {
  io::TensorMap result;
  for (const auto& [name, tensor] : tensors) {
    if (name.rfind(prefix, 0) == 0) result[name.substr(prefix.size())] = tensor;
  }
  return result;
}

bool is_model(const std::filesystem::path& path) {
  try {
    return io::read_safetensors_metadata(path.string())["format"].rfind(kFormatName, 0) == 0;
  } catch (const c10::Error&) {  // no safetensors
    return false;
  }
}

bool holds_backbone(const std::filesystem::path& path) {
  if (!is_model(path)) return true;
  auto metadata = io::read_safetensors_metadata(path.string());
  const auto settings = nlohmann::json::parse(metadata["settings"], nullptr, /*allow_exceptions=*/false);
  const std::string backbone = settings.is_object() ? settings.value("backbone", "") : "";
  return backbone != kExportedBackbone && backbone != kFeaturesBackbone;
}

LoadedModel load_model(const std::filesystem::path& path, torch::Device device, const SegmenterOptions& options,
                       const std::string& module) {
  const std::string name = path.string();
  const auto [tensors, metadata] = read_model(name);
  const std::string& format = metadata_at(metadata, "format", name);
  TORCH_CHECK(format == kModelFormat, name, ": expected the format '", kModelFormat, "', found '", format,
              "', written by smooseg ", metadata_at(metadata, "version", name), ": this is ", SMOOSEG_VERSION,
              "; take a program of that version");
  if (const auto checksum = metadata.find("checksum"); checksum != metadata.end()) {  // older files have none
    TORCH_CHECK(checksum->second == hash_of(tensors).hex(), name,
                ": damaged: its tensors are not those that were saved (another checksum); take a copy or an earlier "
                "checkpoint, or train anew");
  }
  SettingValues values;
  int64_t step = 0, processes = 1;
  try {
    values = nlohmann::json::parse(metadata_at(metadata, "settings", name)).get<SettingValues>();
    step = std::stoll(metadata_at(metadata, "step", name));
    if (const auto several = metadata.find("processes"); several != metadata.end()) {
      processes = std::stoll(several->second);
    }
  } catch (const nlohmann::json::exception& e) {
    throw std::runtime_error(name + ": damaged settings: " + e.what());
  } catch (const std::logic_error&) {
    throw std::runtime_error(name + ": damaged metadata: 'step' and 'processes' must be numbers, and 'step' is '" +
                             metadata.at("step") + "'");
  }
  LoadedModel loaded;
  const ClassTable classes = classes_from_json(metadata_at(metadata, "classes", name), name);
  const ModelSettings settings = settings_from(values, name);
  const bool is_exported = settings.backbone == kExportedBackbone;
  check_module(name, settings, is_exported ? metadata_at(metadata, "module", name) : "", module);
  const auto projector = tensors.find("projector.linear.weight");  // (D,C,1,1)
  const bool has_channels = projector != tensors.end() && projector->second.dim() > 1 && projector->second.size(1) > 0;
  loaded.model = make_model(settings, classes, options, {module, has_channels ? projector->second.size(1) : 1});
  loaded.model.step = step;
  loaded.model.processes = processes;
  if (const auto data = metadata.find("data"); data != metadata.end()) loaded.model.data = data->second;
  for (const auto& item : tensors) {
    for (const std::string prefix : kExtraPrefixes) {
      if (item.first.rfind(prefix, 0) == 0) loaded.extra.insert(item);
    }
  }
  std::vector<std::string> ignored(kExtraPrefixes.begin(), kExtraPrefixes.end());
  ignored.emplace_back(kPositionBasis);
  io::load_tensors(*loaded.model.segmenter, tensors, io::LoadOptions().ignore(ignored), name);
  loaded.model.position_basis = position_basis_of(tensors, loaded.model, name, device);
  loaded.model.segmenter->to(device);
  loaded.model.segmenter->eval();
  return loaded;
}

std::optional<FeatureFiles> model_feature_files(const Model& model, const std::string& folder, bool flip) {
  auto files = open_feature_files(model.settings, folder);
  if (!files) return files;
  if (flip) throw std::runtime_error("--flip: features of files are not those of mirror images");
  files->expect_channels(model.segmenter->backbone->channels(), "the model");
  return files;
}

}  // namespace smooseg::app
