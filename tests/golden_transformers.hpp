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

/// DINOv3's small transformers.
inline smooseg::backbone::VisionTransformerOptions dinov3(int64_t embed_dim = 48, int64_t depth = 3,
                                                          int64_t heads = 3) {
  return smooseg::backbone::VisionTransformerOptions(16, embed_dim, depth, heads)
      .positions(smooseg::backbone::PositionKind::kRotary)
      .mlp_hidden(4 * embed_dim)
      .register_tokens(4)
      .layer_scale(true)
      .norm_eps(1e-5);
}
inline smooseg::backbone::VisionTransformerOptions dinov3_swiglu() {
  return dinov3(64, 2, 2).swiglu(true);
}
inline smooseg::backbone::VisionTransformerOptions dinov3_nobias() {
  return dinov3(64, 2, 4).swiglu(true).mlp_hidden(128).qkv_bias(false);
}
