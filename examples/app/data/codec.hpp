#pragma once

// The decoders behind `image_file.hpp`.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/image_file.hpp"

namespace smooseg::app::codec {

/// A file that is read, and its name for errors.
class File {
 public:
  /// @param expected what the file should be, for the error.
  /// @throws std::runtime_error where there is no such file, or an empty one.
  File(const std::filesystem::path& path, const std::string& expected);

  const std::filesystem::path& path() const { return path_; }
  int64_t size() const { return size_; }

  /// At the file's beginning until it is read from.
  std::FILE* stream() const { return stream_.get(); }

  /// Up to 32 bytes.
  bool starts_with(std::string_view beginning) const;

  /// All of it, for decoders that need it at once.
  /// @throws std::runtime_error for more than 1 GiB.
  std::vector<uint8_t> contents() const;

 private:
  std::filesystem::path path_;
  int64_t size_ = 0;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream_{nullptr, std::fclose};
  std::string head_;
};

/// A picture or label map that is decoded at once.
template <class Value>
class WholeRows : public Rows<Value> {
 public:
  /// @param values height x width x channels.
  WholeRows(int64_t height, int64_t width, std::vector<Value> values)
      : height_(height), width_(width), values_(std::move(values)) {}
  int64_t height() const override { return height_; }
  int64_t width() const override { return width_; }
  void read(int64_t y, Value* values) override {
    const std::size_t row = values_.size() / static_cast<std::size_t>(height_);
    std::copy_n(values_.data() + static_cast<std::size_t>(y) * row, row, values);
  }

 private:
  int64_t height_, width_;
  std::vector<Value> values_;
};

std::unique_ptr<PictureRows> open_jpeg(File file);
std::unique_ptr<PictureRows> open_png(File file);
std::unique_ptr<PictureRows> open_tiff(File file);
std::unique_ptr<PictureRows> open_bmp(File file);
std::unique_ptr<PictureRows> open_webp(File file);

/// The first three channels of the variable "img", (H,W,3 or more) uint8.
std::unique_ptr<PictureRows> open_mat(File file);

/// The stored values of a grey or palette PNG.
std::unique_ptr<LabelRows> open_png_indices(File file);

/// The stored values of a TIFF of one channel of 8 or 16 bits.
std::unique_ptr<LabelRows> open_tiff_indices(File file);

/// The values of the variable "gt" or "S".
std::unique_ptr<LabelRows> open_mat_indices(File file);

/// Throws the error of a format that was left out when the program was built.
[[noreturn]] void fail_unbuilt(const File& file, const std::string& format, const std::string& package);

/// Throws "PATH: expected WHAT, found ...".
[[noreturn]] void fail(const std::filesystem::path& path, const std::string& expected, const std::string& found);

/// "640 x 480 pixels", the width before the height.
std::string size_text(int64_t height, int64_t width);

/// Refuses more pixels than a file of this length can hold: `min_bytes` is the least that a file of the format takes for
/// them.
void check_bytes(const File& file, int64_t height, int64_t width, int64_t min_bytes);

/// Refuses more pixels at a time than `kMaxPixels`. @param kind such as "a picture".
void check_whole(const std::filesystem::path& path, const std::string& kind, int64_t height, int64_t width);

}  // namespace smooseg::app::codec
