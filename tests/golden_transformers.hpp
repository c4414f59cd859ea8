#pragma once

// The small vision transformers whose weights and features are in tests/data.

#include "smooseg/backbone/vision_transformer.hpp"

constexpr double kGoldenTolerance = 1e-5;

inline smooseg::backbone::VisionTransformerOptions dino_p8() {
  return smooseg::backbone::VisionTransformerOptions(8, 48, 3, 3).image_size(64);
}
inline smooseg::backbone::VisionTransformerOptions dino_p16() {
  return smooseg::backbone::VisionTransformerOptions(16, 32, 2, 2).image_size(96);
}
inline smooseg::backbone::VisionTransformerOptions dinov2() {
  return smooseg::backbone::VisionTransformerOptions(14, 48, 3, 3).image_size(70).layer_scale(true);
}
inline smooseg::backbone::VisionTransformerOptions dinov2_registers() {
  return dinov2().register_tokens(4).interpolate_offset(0.0).interpolate_antialias(true);
}
