#pragma once

// Picture files as plain bytes: JPEG and PNG in, PNG out. No LibTorch here; `image_file.hpp` gives tensors.
// All errors are std::runtime_error of the form "PATH: expected ..., found ...".

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace smooseg::app {

/// Red, green and blue, 0..255.
using Color = std::array<uint8_t, 3>;

/// Pixels row by row, `channels` values each: 3 (RGB) or 1 (grey, or indices into a palette).
struct Raster {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;
  std::vector<uint8_t> values;
};

/// One index per pixel, row by row.
struct IndexRaster {
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint16_t> values;
};

/// Pictures of more pixels are refused before memory is taken for them.
inline constexpr int64_t kMaxPixels = 100'000'000;

/// A JPEG (baseline or progressive; grey, YCbCr, RGB, CMYK, YCCK) or PNG (any colour type and depth, 16 bits rounded
/// to 8, alpha ignored, interlaced or not) as RGB. The content decides which, not the name. The orientation that a
/// camera notes in EXIF is not applied: label maps belong to the pixels as stored.
/// @throws std::runtime_error for missing, empty, damaged, truncated, unsupported and oversized files.
Raster read_rgb(const std::filesystem::path& path);

/// The values of a grey (1 to 16 bits) or palette PNG as they are stored: grey levels are not stretched, palette
/// entries not looked up.
/// @throws std::runtime_error as `read_rgb`, and for files that hold colours or lossy values instead of indices.
IndexRaster read_indices(const std::filesystem::path& path);

/// Writes a PNG: RGB for 3 channels; for one channel a palette picture if there is a palette (1 to 256 colours), else
/// grey. The file appears whole or not at all.
/// @throws std::runtime_error where the file cannot be written; std::invalid_argument for a raster of other shape or
///   an index outside the palette.
void write_png(const std::filesystem::path& path, const Raster& raster, const std::vector<Color>& palette = {});

namespace codec {

/// A file in memory, and the name for errors about it.
struct File {
  std::filesystem::path path;
  std::vector<uint8_t> bytes;
};

bool is_jpeg(const File& file);
bool is_png(const File& file);
Raster decode_jpeg(const File& file);
Raster decode_png(const File& file);
IndexRaster decode_png_indices(const File& file);

/// Throws "PATH: expected WHAT, found ...".
[[noreturn]] void fail(const std::filesystem::path& path, const std::string& expected, const std::string& found);

/// Refuses more than `kMaxPixels`, and more pixels than a file of this length can hold: `min_bytes` is the least that
/// a file of the format takes for them.
void check_size(const File& file, int64_t height, int64_t width, int64_t min_bytes);

}  // namespace codec
}  // namespace smooseg::app
