#include "data/image_file.hpp"

#include <torch/types.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "data/codec.hpp"

namespace smooseg::app {
namespace codec {
namespace {

constexpr uintmax_t kMaxFileBytes = uintmax_t{1} << 30;

using std::string_view_literals::operator""sv;

constexpr std::string_view kJpegBeginning = "\xff\xd8\xff", kPngBeginning = "\x89PNG\r\n\x1a\n";

bool starts_with(const File& file, std::string_view beginning) {
  return file.bytes.size() >= beginning.size() &&
         std::memcmp(file.bytes.data(), beginning.data(), beginning.size()) == 0;
}

bool is_tiff(const File& file) {
  return starts_with(file, "II*\0"sv) || starts_with(file, "MM\0*"sv) || starts_with(file, "II+\0"sv) ||
         starts_with(file, "MM\0+"sv);
}

/// Levels 5 (MATLAB 5 to 7.2, SciPy) and 7.3.
bool is_mat(const File& file) {
  return starts_with(file, "MATLAB 5.0 MAT-file") || starts_with(file, "MATLAB 7.3 MAT-file");
}

/// What a file of none of the wanted formats seems to be.
std::string describe(const File& file) {
  if (starts_with(file, "GIF8")) return "a GIF file";
  if (starts_with(file, "BM")) return "a BMP file";
  if (starts_with(file, "RIFF")) return "a WebP or other RIFF file";
  if (is_tiff(file)) return "a TIFF file";
  if (is_mat(file)) return "a MATLAB file";
  return "a file of another format";
}

File read_file(const std::filesystem::path& path, const std::string& expected) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) fail(path, expected, "no such file");
  if (std::filesystem::is_directory(status)) fail(path, expected, "a folder");
  if (!std::filesystem::is_regular_file(status)) fail(path, expected, "something that is not a file");
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) fail(path, expected, error.message());
  if (size == 0) fail(path, expected, "an empty file");
  if (size > kMaxFileBytes) fail(path, expected + " of at most 1 GiB", std::to_string(size) + " bytes");

  File file{path, std::vector<uint8_t>(static_cast<size_t>(size))};
  std::ifstream stream(path, std::ios::binary);
  stream.read(reinterpret_cast<char*>(file.bytes.data()), static_cast<std::streamsize>(size));
  if (!stream) fail(path, expected, "a file that cannot be read: " + std::generic_category().message(errno));
  return file;
}

}  // namespace

std::vector<int64_t> all_rows(int64_t height, int64_t) {
  std::vector<int64_t> rows(static_cast<size_t>(height));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

void fail_unbuilt(const File& file, const std::string& format, const std::string& package) {
  fail(file.path, "a file that this program reads",
       format + ", for which it must be built with " + package + ": install that package and run cmake/build.sh");
}

void fail(const std::filesystem::path& path, const std::string& expected, const std::string& found) {
  throw std::runtime_error(path.string() + ": expected " + expected + ", found " + found);
}

std::string size_text(int64_t height, int64_t width) {
  return std::to_string(width) + " x " + std::to_string(height) + " pixels";
}

void check_size(const File& file, int64_t height, int64_t width, int64_t min_bytes) {
  const std::string size = size_text(height, width);
  if (height > kMaxPixels / width) {
    fail(file.path, "a picture of at most " + std::to_string(kMaxPixels) + " pixels", size);
  }
  const auto bytes = static_cast<int64_t>(file.bytes.size());
  if (bytes < min_bytes) {
    fail(file.path, "at least " + std::to_string(min_bytes) + " bytes for " + size,
         std::to_string(bytes) + " (truncated or damaged)");
  }
}

}  // namespace codec

using namespace codec;

Tensor read_image(const std::filesystem::path& path, const RowChoice& choose_rows) {
  const char* const expected = "a JPEG, PNG, TIFF or MATLAB picture";
  const File file = read_file(path, expected);
  const RowChoice& rows = choose_rows ? choose_rows : all_rows;
  if (starts_with(file, kJpegBeginning)) return decode_jpeg(file, rows);
  if (starts_with(file, kPngBeginning)) return decode_png(file, rows);
  if (is_tiff(file)) return decode_tiff(file, rows);
  if (is_mat(file)) return decode_mat(file, rows);
  fail(path, expected, describe(file));
}

Tensor read_label(const std::filesystem::path& path) {
  const char* const expected = "a label map (grey or palette PNG, or MATLAB)";
  const File file = read_file(path, expected);
  if (starts_with(file, kPngBeginning)) return decode_png_indices(file);
  if (is_mat(file)) return decode_mat_indices(file);
  fail(path, expected,
       starts_with(file, kJpegBeginning) ? "a JPEG, whose compression changes the values" : describe(file));
}

Tensor read_color_label(const std::filesystem::path& path) {
  const char* const expected = "a label map of colours (PNG or TIFF)";
  const File file = read_file(path, expected);
  if (starts_with(file, kJpegBeginning)) fail(path, expected, "a JPEG, whose compression changes the values");
  if (!starts_with(file, kPngBeginning) && !is_tiff(file)) fail(path, expected, describe(file));
  const Tensor picture = is_tiff(file) ? decode_tiff(file, all_rows) : decode_png(file, all_rows);
  const Tensor packed = torch::empty({picture.size(0), picture.size(1)}, torch::kInt64);
  const auto* rgb = picture.data_ptr<uint8_t>();
  auto* const values = packed.data_ptr<int64_t>();
  for (int64_t p = 0; p < packed.numel(); ++p, rgb += 3) values[p] = rgb[0] << 16 | rgb[1] << 8 | rgb[2];
  return packed;
}

}  // namespace smooseg::app
