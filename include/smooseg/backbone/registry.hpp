#pragma once

// Backbones by name.

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "smooseg/backbone/backbone.hpp"
#include "smooseg/backbone/convnext.hpp"
#include "smooseg/backbone/resnet.hpp"
#include "smooseg/backbone/texture.hpp"
#include "smooseg/backbone/vision_transformer.hpp"
#include "smooseg/smoothness.hpp"

namespace smooseg::backbone {

/// Where most files of `PretrainedWeights` are published.
inline constexpr auto kWeightsUrl = "https://dl.fbaipublicfiles.com";

/// The file with a backbone's published weights. What is not known of it is left empty.
struct PretrainedWeights {
  std::string file;                ///< its official name; empty: the backbone needs none
  std::string path;                ///< where it lies below `site`
  std::string licence;             ///< SPDX identifier, or the name of a licence that has none
  int64_t bytes = 0;               ///< its size; 0: unknown
  std::string sha256 = "";         ///< 64 hexadecimal digits, or those that it begins with; empty: unknown
  std::string request = "";        ///< the page where the publisher must be asked for it; empty: anybody may fetch it
  std::string site = kWeightsUrl;  ///< where it is published
};

/// What may be chosen for a backbone made by name; each backbone looks at what concerns it.
struct BackboneOptions {
  /* implicit */ BackboneOptions(FeatureKind features = FeatureKind::kTokens) : features_(features) {}

  /// Which features a transformer gives; a backbone without attention has no keys. Default: tokens
  TORCH_ARG(FeatureKind, features);

  TORCH_ARG(TextureOptions, texture);
};

/// What is known of a backbone before it is made. Where `weights.file` is empty, it needs no weights: it learns in
/// `Backbone::fit` what it needs.
struct RegistryEntry {
  std::string name;
  std::variant<VisionTransformerOptions, ResNetOptions, ConvNeXtOptions, TextureOptions> options;  ///< kind and size
  int64_t patch_size;                                                                              ///< pixels
  int64_t channels;                                                                                ///< of the features
  PretrainedWeights weights;
  /// Thresholds of Eq. 4 to begin with: the published ones, or those that suit features of another kind.
  double within_threshold = SmoothnessOptions().within_threshold();
  double across_threshold = SmoothnessOptions().across_threshold();

  /// Whether there is attention, and so `FeatureKind::kKeys`.
  bool has_keys() const { return std::holds_alternative<VisionTransformerOptions>(options); }
};

/// All backbones that `make` knows.
inline const std::vector<RegistryEntry>& registry() {
  using Options = VisionTransformerOptions;
  const auto transformer = [](const std::string& name, const Options& options, const PretrainedWeights& weights) {
    return RegistryEntry{name, options, options.patch_size(), options.embed_dim(), weights};
  };
  // DINO's file FILE.pth lies in a folder of its own name.
  const auto dino_file = [](const std::string& file) {
    return PretrainedWeights{file + ".pth", "dino/" + file + "/" + file + ".pth", "Apache-2.0", 0, ""};
  };
  const auto dino = [&](const std::string& name, const Options& options, const std::string& file) {
    return transformer(name, options, dino_file(file));
  };
  // DINOv2's MODEL_pretrain.pth and MODEL_reg4_pretrain.pth lie in the folder MODEL. The publisher gives no checksums;
  // these are what several independent projects have pinned for the files.
  const auto dinov2 = [&](const std::string& model, const Options& options, int64_t bytes, const std::string& sha256) {
    const bool registers = options.register_tokens() > 0;
    const std::string file = model + (registers ? "_reg4" : "") + "_pretrain.pth";
    return transformer(model + (registers ? "_reg" : ""), options,
                       {file, "dinov2/" + model + "/" + file, "Apache-2.0", bytes, sha256});
  };
  const PretrainedWeights moco_file{"moco_v2_800ep_pretrain.pth.tar",
                                    "moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
                                    "CC-BY-NC-4.0", 0, ""};
  const auto resnet50 = [](const std::string& name, const PretrainedWeights& weights) {
    return RegistryEntry{name, ResNetOptions::resnet50(), 32, 2048, weights};
  };
  // DINOv3's links are sent to who has filled in a form, and expire; the digits in a file's name begin its SHA-256.
  const auto dinov3_file = [](const std::string& model, const std::string& data, const std::string& digits) {
    return PretrainedWeights{model + "_pretrain_" + data + "-" + digits + ".pth",
                             "",
                             "DINOv3 License",
                             0,
                             digits,
                             "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"};
  };
  const auto dinov3 = [&](const std::string& model, const Options& options, const std::string& digits) {
    return transformer(model, options, dinov3_file(model, "lvd1689m", digits));
  };
  const auto dinov3_satellite = [&](const std::string& model, const Options& options, const std::string& digits) {
    return transformer(model + "_sat493m", options, dinov3_file(model, "sat493m", digits));
  };
  const auto dinov3_convnext = [&](const std::string& model, const ConvNeXtOptions& options,
                                   const std::string& digits) {
    return RegistryEntry{model, options, 32, options.dims().back(), dinov3_file(model, "lvd1689m", digits)};
  };
  // Franca's networks are DINOv2's with a SwiGLU.
  const auto franca = [&](const std::string& name, Options options, const std::string& release,
                          const std::string& file) {
    return transformer(name, options.swiglu(true),
                       {file, "valeoai/Franca/releases/download/" + release + "/" + file, "Research-Only RAIL", 0, "",
                        "", "https://github.com"});
  };
  static const std::vector<RegistryEntry> entries{
      dino("dino_vits8", Options::dino_vits8(), "dino_deitsmall8_pretrain"),
      dino("dino_vits16", Options::dino_vits16(), "dino_deitsmall16_pretrain"),
      dino("dino_vitb8", Options::dino_vitb8(), "dino_vitbase8_pretrain"),
      dino("dino_vitb16", Options::dino_vitb16(), "dino_vitbase16_pretrain"),
      dinov2("dinov2_vits14", Options::dinov2_vits14(), 88'283'115,
             "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"),
      dinov2("dinov2_vitb14", Options::dinov2_vitb14(), 346'378'731,
             "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"),
      dinov2("dinov2_vitl14", Options::dinov2_vitl14(), 1'217'586'395,
             "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"),
      dinov2("dinov2_vitg14", Options::dinov2_vitg14(), 4'546'108'579,
             "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3"),
      dinov2("dinov2_vits14", Options::dinov2_vits14(true), 0,
             "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb"),
      dinov2("dinov2_vitb14", Options::dinov2_vitb14(true), 346'393'545,
             "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71"),
      dinov2("dinov2_vitl14", Options::dinov2_vitl14(true), 1'217'607'321,
             "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51"),
      dinov2("dinov2_vitg14", Options::dinov2_vitg14(true), 4'546'140'349,
             "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283"),
      dinov3("dinov3_vits16", Options::dinov3_vits16(), "08c60483"),
      dinov3("dinov3_vits16plus", Options::dinov3_vits16plus(), "4057cbaa"),
      dinov3("dinov3_vitb16", Options::dinov3_vitb16(), "73cec8be"),
      dinov3("dinov3_vitl16", Options::dinov3_vitl16(), "8aa4cbdd"),
      dinov3("dinov3_vitl16plus", Options::dinov3_vitl16plus(), "46503df0"),
      dinov3("dinov3_vith16plus", Options::dinov3_vith16plus(), "7c1da9a5"),
      dinov3("dinov3_vit7b16", Options::dinov3_vit7b16(), "a955f4ea"),
      dinov3_satellite("dinov3_vitl16", Options::dinov3_vitl16(true), "eadcf0ff"),
      dinov3_satellite("dinov3_vit7b16", Options::dinov3_vit7b16(true), "a6675841"),
      dinov3_convnext("dinov3_convnext_tiny", ConvNeXtOptions::dinov3_convnext_tiny(), "21b726bb"),
      dinov3_convnext("dinov3_convnext_small", ConvNeXtOptions::dinov3_convnext_small(), "296db49d"),
      dinov3_convnext("dinov3_convnext_base", ConvNeXtOptions::dinov3_convnext_base(), "801f2ba9"),
      dinov3_convnext("dinov3_convnext_large", ConvNeXtOptions::dinov3_convnext_large(), "61fa432d"),
      franca("franca_vitb14", Options::dinov2_vitb14(), "v1.0.0", "franca_vitb14_In21K.pth"),
      franca("franca_vitl14", Options::dinov2_vitl14(), "v1.1.0", "franca_vitl14_Laion_518.pth"),
      resnet50("dino_resnet50", dino_file("dino_resnet50_pretrain")),
      resnet50("mocov2_resnet50", moco_file),
      // Its cosines are those of non-negative vectors, hence higher than those of DINO's features.
      {"texture", TextureOptions(), 8, TextureOptions().textons(), {}, 0.2, 0.7},
  };
  return entries;
}

/// What is known of the backbone of this name.
/// @throws c10::Error, listing the known names, for another one.
inline const RegistryEntry& find(const std::string& name) {
  const auto& entries = registry();
  const auto entry = std::find_if(entries.begin(), entries.end(), [&](const auto& e) { return e.name == name; });
  if (entry != entries.end()) return *entry;
  std::string known;
  for (const RegistryEntry& e : entries) known += (known.empty() ? "" : ", ") + e.name;
  TORCH_CHECK(false, "backbone: expected one of ", known, ", got '", name, "'");
}

/// Makes the backbone of this name: a network with random weights, to be loaded with `io::load`, or one that is not yet
/// fitted.
/// @throws c10::Error for an unknown name, and for features that the backbone does not have.
inline std::shared_ptr<Backbone> make(const std::string& name, const BackboneOptions& options = {}) {
  const RegistryEntry& entry = find(name);
  TORCH_CHECK(entry.has_keys() || options.features() == FeatureKind::kTokens, "backbone: ", name,
              " has no keys; expected FeatureKind::kTokens");
  if (std::holds_alternative<TextureOptions>(entry.options)) return std::make_shared<TextureImpl>(options.texture());
  if (const auto* resnet = std::get_if<ResNetOptions>(&entry.options)) return std::make_shared<ResNetImpl>(*resnet);
  if (const auto* net = std::get_if<ConvNeXtOptions>(&entry.options)) return std::make_shared<ConvNeXtImpl>(*net);
  auto transformer = std::get<VisionTransformerOptions>(entry.options);
  return std::make_shared<VisionTransformerImpl>(transformer.features(options.features()));
}

}  // namespace smooseg::backbone
