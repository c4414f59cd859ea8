#pragma once

// Pictures as files in memory, to become parts of other files.

#include <string>
#include <vector>

#include "data/image_file.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// A baseline JPEG.
/// @param picture (H,W,3) uint8, RGB, on the CPU; at most 65535 pixels a side.
/// @param quality 1 to 100, as libjpeg counts it.
/// @throws c10::Error for other tensors and qualities; std::runtime_error where libjpeg fails.
std::string encode_jpeg(const Tensor& picture, int quality);

/// A palette PNG.
/// @param indices (H,W), an integral dtype, each 0 <= index < colors.size(), or negative: transparent.
/// @param colors 1 to 255.
/// @throws c10::Error for other arguments; std::runtime_error where libpng fails.
std::string encode_palette_png(const Tensor& indices, const std::vector<Color>& colors);

}  // namespace smooseg::app
