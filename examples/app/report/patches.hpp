#pragma once

// What a model makes of the patches of a picture.

#include <torch/types.h>

#include <optional>

#include "smooseg/segmenter.hpp"

namespace smooseg::app {

struct PatchMaps {
  Tensor features;  ///< (1,C,h,w), the backbone's
  Tensor code;      ///< (1,D,h,w), the projector's
};

/// What goes beyond whole patches, at the right and below, is left out.
/// @param segmenter in evaluation mode, on `device`. @param pixels (H,W,3) uint8.
/// @return nothing for a picture without a whole patch.
std::optional<PatchMaps> patch_maps(SegmenterImpl& segmenter, const Tensor& pixels, torch::Device device);

}  // namespace smooseg::app
