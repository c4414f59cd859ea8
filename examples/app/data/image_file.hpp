#pragma once

// Picture files, as tensors or row by row: JPEG, PNG, TIFF, BMP, WebP and MATLAB in, PNG out. What is wrong with a file is
// told by a std::runtime_error of the form "PATH: expected ..., found ...".

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// Red, green and blue, 0..255.
using Color = std::array<uint8_t, 3>;

/// Pictures that are held as a whole may have so many pixels; more are refused before memory is taken for them.
inline constexpr int64_t kMaxPixels = 100'000'000;

/// Given a picture's height and width, the rows to keep of it: ascending, each once.
using RowChoice = std::function<std::vector<int64_t>(int64_t height, int64_t width)>;

/// Whether TIFF, WebP and MATLAB files are read, which takes libtiff, libwebp and libmatio when the program is built.
bool reads_tiff();
bool reads_webp();
bool reads_mat();

/// What the names of pictures that are read end in, in small letters, such as ".jpg".
const std::vector<std::string>& picture_endings();

/// What a file shows, decoded row after row from the top, so that it need not fit into memory.
template <class Value>
class Rows {
 public:
  /// Values a pixel: red, green and blue of a picture, one of a label map.
  static constexpr int64_t kChannels = std::is_same_v<Value, uint8_t> ? 3 : 1;

  Rows() = default;
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;
  virtual ~Rows() = default;

  /// In pixels.
  virtual int64_t height() const = 0;
  virtual int64_t width() const = 0;

  /// Decodes row y into `values`. Rows above the one read last cannot be had any more; those in between are passed over.
  /// @throws std::runtime_error for damage that is found on the way.
  virtual void read(int64_t y, Value* values) = 0;

  /// To be called after the last row that is wanted: whether the file ends where it should.
  /// @throws std::runtime_error for truncated files.
  virtual void finish() {}
};

using PictureRows = Rows<uint8_t>;
using LabelRows = Rows<int64_t>;

/// Opens a picture to be decoded as RGB: a JPEG (baseline or progressive; grey, YCbCr, RGB, CMYK, YCCK), a PNG (any
/// colour type and depth, 16 bits rounded to 8, alpha ignored, interlaced or not), a TIFF (BigTIFF too, in strips or
/// tiles, what libtiff turns into RGB; of more channels the first three), a BMP without compression, a WebP that is not
/// animated, or the first three channels of the variable `img` (H,W,3 or more, uint8) of a MATLAB file. The content
/// decides which, not the name. The orientation that a camera notes in EXIF is not applied: label maps belong to the
/// pixels as stored. Memory is needed for a few rows, for a strip or a row of tiles of a TIFF, and for the whole picture
/// where it is a progressive JPEG, an interlaced PNG, a WebP or a MATLAB file.
/// @throws std::runtime_error for missing, empty, damaged, truncated and unsupported files, and for those that need more
///   than `kMaxPixels` at a time.
std::unique_ptr<PictureRows> open_picture(const std::filesystem::path& path);

/// The same for a label map: the values of a grey (1 to 16 bits) or palette PNG or a TIFF of one channel (8 or 16 bits)
/// as they are stored, or those of the variable `gt` or `S` (H,W) of a MATLAB file. Grey levels are not stretched,
/// palette entries not looked up. Values are 0..65535.
/// @throws std::runtime_error as `open_picture`, and for files that hold colours or lossy values instead of indices.
std::unique_ptr<LabelRows> open_label(const std::filesystem::path& path);

/// The same for a label map of colours, from a PNG of any kind or a TIFF: 65536 red + 256 green + blue.
/// @throws std::runtime_error as `open_picture`, and for files of lossy values.
std::unique_ptr<LabelRows> open_color_label(const std::filesystem::path& path);

/// A whole picture.
/// @param choose_rows called once, before any row is read; what it throws is passed on. Rows that are not kept take no
///   memory, and less time where the format allows. Default: all rows.
/// @return (rows,W,3) uint8.
/// @throws std::runtime_error as `open_picture`, and for more than `kMaxPixels` that are kept.
Tensor read_image(const std::filesystem::path& path, const RowChoice& choose_rows = {});

/// A whole label map. @return (H,W) int64. @throws std::runtime_error as `open_label`, and for more than `kMaxPixels`.
Tensor read_label(const std::filesystem::path& path);

/// A whole label map of colours. @return (H,W) int64. @throws std::runtime_error as `open_color_label`, and for more than
///   `kMaxPixels`.
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
