#pragma once

// The decoders behind `image_file.hpp`.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/image_file.hpp"

namespace smooseg::app::codec {

/// A file in memory, and the name for errors about it.
struct File {
  std::filesystem::path path;
  std::vector<uint8_t> bytes;
};

/// The chosen rows of a picture, (rows,W,3) uint8.
Tensor decode_jpeg(const File& file, const RowChoice& choose_rows);
Tensor decode_png(const File& file, const RowChoice& choose_rows);

Tensor decode_tiff(const File& file, const RowChoice& choose_rows);

/// The first three channels of the variable "img", (H,W,3 or more) uint8.
Tensor decode_mat(const File& file, const RowChoice& choose_rows);

/// The stored values of a grey or palette PNG, (H,W) int64.
Tensor decode_png_indices(const File& file);

/// The values of the variable "gt" or "S", (H,W) int64.
Tensor decode_mat_indices(const File& file);

/// Throws the error of a format that was left out when the program was built.
[[noreturn]] void fail_unbuilt(const File& file, const std::string& format, const std::string& package);

/// Throws "PATH: expected WHAT, found ...".
[[noreturn]] void fail(const std::filesystem::path& path, const std::string& expected, const std::string& found);

/// "640 x 480 pixels", the width before the height.
std::string size_text(int64_t height, int64_t width);

/// All rows, the default of `read_image`.
std::vector<int64_t> all_rows(int64_t height, int64_t width);

/// Refuses more than `kMaxPixels`, and more pixels than a file of this length can hold: `min_bytes` is the least that
/// a file of the format takes for them.
void check_size(const File& file, int64_t height, int64_t width, int64_t min_bytes);

}  // namespace smooseg::app::codec
