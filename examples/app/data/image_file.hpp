#pragma once

// Picture files as tensors. What is accepted and refused stands in `codec.hpp`.

#include <filesystem>
#include <vector>

#include "data/codec.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// A JPEG or PNG picture, recognised by its content.
/// @return (H,W,3) uint8, RGB.
/// @throws std::runtime_error "PATH: expected ..., found ..." as `read_rgb`.
Tensor read_image(const std::filesystem::path& path);

/// A label map: the values of a grey or palette PNG as stored.
/// @return (H,W) int64, 0..65535.
/// @throws std::runtime_error as `read_indices`, for a PNG of RGB colours among others.
Tensor read_label(const std::filesystem::path& path);

/// Writes (H,W,3) RGB or (H,W) grey, uint8, on the CPU.
/// @throws c10::Error for other tensors; std::runtime_error where the file cannot be written.
void write_png(const std::filesystem::path& path, const Tensor& picture);

/// Writes a palette PNG, from which `read_label` gets the same indices back and other programs show the colours.
/// @param indices (H,W), an integral dtype, each 0 <= index < colors.size().
/// @param colors 1 to 256.
/// @throws c10::Error for other arguments; std::runtime_error where the file cannot be written.
void write_palette_png(const std::filesystem::path& path, const Tensor& indices, const std::vector<Color>& colors);

}  // namespace smooseg::app
