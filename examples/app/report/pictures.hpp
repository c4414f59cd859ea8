#pragma once

// Segmentations as pictures.

#include <vector>

#include "data/image_file.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// Each index in its colour.
/// @param indices (H,W), an integral dtype, on the CPU; 0 <= index < colors.size(), or negative: ignored.
/// @param ignored the colour of ignored pixels.
/// @return (H,W,3) uint8.
/// @throws c10::Error for other shapes and dtypes, and an index without a colour.
Tensor colorize(const Tensor& indices, const std::vector<Color>& colors, const Color& ignored = {0, 0, 0});

/// Each label (uint8) by its entry in a table of 256 or fewer (uint8), without int64 indices of the whole picture.
Tensor mapped(const Tensor& labels, const Tensor& table);

/// The picture with the colours laid over it; a line one pixel wide, in the full colour, runs along the inside of each
/// region. Ignored pixels show the picture.
/// @param image (H,W,3) uint8, on the CPU.
/// @param indices (H,W) as for `colorize`.
/// @param alpha 0 (only the picture inside the lines) to 1 (only the colours).
/// @return (H,W,3) uint8.
/// @throws c10::Error as `colorize`, for sizes that differ and for an alpha out of range.
Tensor overlay(const Tensor& image, const Tensor& indices, const std::vector<Color>& colors, double alpha);

/// Pictures side by side, 4 white columns between.
/// @param pictures at least one, each (H,W,3) uint8 of one height.
/// @return (H,W',3) uint8.
/// @throws c10::Error for other shapes and heights that differ.
Tensor panel(const std::vector<Tensor>& pictures);

}  // namespace smooseg::app
