#pragma once

// Picture files as plain bytes: JPEG and PNG in, PNG out. No LibTorch here; `image_file.hpp` gives tensors.
// All errors are std::runtime_error of the form "PATH: expected ..., found ...".

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
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

/// The pixels of a picture where some of its rows and columns cross. Positions are in ascending order; one may stand
/// several times.
struct Grid {
  std::vector<int64_t> rows, columns;
};

/// The same picture, but only the pixels of some grids, so that no memory is taken for the others, nor time where it
/// can be avoided. All of the file is still read and checked.
/// @param choose_grids called once with the picture's height and width; what it throws is passed on.
/// @return for each grid a raster of its rows x its columns, RGB.
/// @throws std::runtime_error as above.
std::vector<Raster> read_rgb(const std::filesystem::path& path,
                             const std::function<std::vector<Grid>(int64_t, int64_t)>& choose_grids);

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

/// Where a decoder puts the rows of a picture.
class RowSink {
 public:
  virtual ~RowSink() = default;

  /// Called once, before any row.
  virtual void begin(int64_t height, int64_t width) = 0;

  /// The first row from `y` on that is wanted; the height where none is.
  virtual int64_t next_row(int64_t y) const = 0;

  /// Takes a row that is wanted: 3 values (RGB) for each pixel. Rows come from top to bottom.
  virtual void take(int64_t y, const uint8_t* rgb) = 0;
};

bool is_jpeg(const File& file);
bool is_png(const File& file);
void decode_jpeg(const File& file, RowSink& sink);
void decode_png(const File& file, RowSink& sink);
IndexRaster decode_png_indices(const File& file);

/// Throws "PATH: expected WHAT, found ...".
[[noreturn]] void fail(const std::filesystem::path& path, const std::string& expected, const std::string& found);

/// Refuses more than `kMaxPixels`, and more pixels than a file of this length can hold: `min_bytes` is the least that
/// a file of the format takes for them.
void check_size(const File& file, int64_t height, int64_t width, int64_t min_bytes);

}  // namespace codec
}  // namespace smooseg::app
