#pragma once

// Backbones by name.

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "smooseg/backbone/backbone.hpp"
#include "smooseg/backbone/texture.hpp"
#include "smooseg/backbone/vision_transformer.hpp"

namespace smooseg::backbone {

/// What is known of a backbone before it is made.
struct RegistryEntry {
  std::string name;
  int64_t patch_size;        ///< pixels
  int64_t channels;          ///< of the features
  std::string weights_file;  ///< the official file's name; empty: needs none
  std::string licence;       ///< the weights' licence; empty: needs none
  std::function<std::shared_ptr<Backbone>(FeatureKind)> make;
};

/// All backbones that `make` knows.
inline const std::vector<RegistryEntry>& registry() {
  const auto dino = [](const std::string& name, const VisionTransformerOptions& options, const std::string& file) {
    return RegistryEntry{name, options.patch_size(), options.embed_dim(), file, "Apache-2.0", [=](FeatureKind kind) {
                           auto chosen = options;
                           return std::make_shared<VisionTransformerImpl>(chosen.features(kind));
                         }};
  };
  const auto texture = [](FeatureKind kind) {
    TORCH_CHECK(kind == FeatureKind::kTokens, "backbone: texture has no keys; expected FeatureKind::kTokens");
    return std::make_shared<TextureImpl>();
  };
  using Options = VisionTransformerOptions;
  static const std::vector<RegistryEntry> entries{
      dino("dino_vits8", Options::dino_vits8(), "dino_deitsmall8_pretrain.pth"),
      dino("dino_vits16", Options::dino_vits16(), "dino_deitsmall16_pretrain.pth"),
      dino("dino_vitb8", Options::dino_vitb8(), "dino_vitbase8_pretrain.pth"),
      dino("dino_vitb16", Options::dino_vitb16(), "dino_vitbase16_pretrain.pth"),
      {"texture", 8, TextureOptions().textons(), "", "", texture},
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

/// Makes the backbone of this name: a transformer with random weights, to be loaded with `io::load`; a `Texture` that
/// is not yet fitted.
/// @param kind which features a transformer gives; a backbone without attention has no keys.
/// @throws c10::Error for an unknown name, and for features that the backbone does not have.
inline std::shared_ptr<Backbone> make(const std::string& name, FeatureKind kind = FeatureKind::kTokens) {
  return find(name).make(kind);
}

}  // namespace smooseg::backbone
