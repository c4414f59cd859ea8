#pragma once

// Picture files as tensors: JPEG, PNG, TIFF and MATLAB in, PNG out. What is wrong with a file is told by a std::runtime_error of the
// form "PATH: expected ..., found ...".

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// Red, green and blue, 0..255.
using Color = std::array<uint8_t, 3>;

/// Pictures of more pixels are refused before memory is taken for them.
inline constexpr int64_t kMaxPixels = 100'000'000;

/// Given a picture's height and width, the rows to keep of it: ascending, each once.
using RowChoice = std::function<std::vector<int64_t>(int64_t height, int64_t width)>;

/// Whether TIFF and MATLAB files are read, which takes libtiff and libmatio when the program is built.
bool reads_tiff();
bool reads_mat();

/// A picture as RGB: a JPEG (baseline or progressive; grey, YCbCr, RGB, CMYK, YCCK), a PNG (any colour type and depth, 16
/// bits rounded to 8, alpha ignored, interlaced or not), a TIFF (what libtiff turns into RGB; of more channels the first
/// three), or the first three channels of the variable `img` (H,W,3 or more, uint8) of a MATLAB file. The content decides
/// which, not the name. The orientation that a camera notes in EXIF is not applied: label maps belong to the pixels as
/// stored.
/// @param choose_rows called once, before any row is read; what it throws is passed on. Rows that are not kept take no
///   memory, and less time where the format allows; the file is checked to its end all the same. Default: all rows.
/// @return (rows,W,3) uint8.
/// @throws std::runtime_error for missing, empty, damaged, truncated, unsupported and oversized files.
Tensor read_image(const std::filesystem::path& path, const RowChoice& choose_rows = {});

/// A label map: the values of a grey (1 to 16 bits) or palette PNG as they are stored, or those of the variable `gt` or
/// `S` (H,W) of a MATLAB file. Grey levels are not stretched, palette entries not looked up.
/// @return (H,W) int64, 0..65535.
/// @throws std::runtime_error as `read_image`, and for files that hold colours or lossy values instead of indices.
Tensor read_label(const std::filesystem::path& path);

/// A label map of colours, from a PNG of any kind or a TIFF that is not compressed with losses.
/// @return (H,W) int64: 65536 red + 256 green + blue.
/// @throws std::runtime_error as `read_image`, and for files of lossy values.
Tensor read_color_label(const std::filesystem::path& path);

/// Writes (H,W,3) RGB or (H,W) grey, uint8, on the CPU. The file appears whole or not at all.
/// @throws c10::Error for other tensors; std::runtime_error where the file cannot be written.
void write_png(const std::filesystem::path& path, const Tensor& picture);

/// Writes a palette PNG, from which `read_label` gets the same indices back and other programs show the colours.
/// @param indices (H,W), an integral dtype, each 0 <= index < colors.size().
/// @param colors 1 to 256.
/// @throws c10::Error for other arguments; std::runtime_error where the file cannot be written.
void write_palette_png(const std::filesystem::path& path, const Tensor& indices, const std::vector<Color>& colors);

}  // namespace smooseg::app
