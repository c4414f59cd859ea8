#include "data/codec.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace smooseg::app {
namespace codec {
namespace {

constexpr uintmax_t kMaxFileBytes = uintmax_t{1} << 30;

bool starts_with(const File& file, const std::string& magic) {
  return file.bytes.size() >= magic.size() && std::memcmp(file.bytes.data(), magic.data(), magic.size()) == 0;
}

/// What a file that is neither JPEG nor PNG seems to be.
std::string describe(const File& file) {
  if (starts_with(file, "GIF8")) return "a GIF file";
  if (starts_with(file, "BM")) return "a BMP file";
  if (starts_with(file, "RIFF")) return "a WebP or other RIFF file";
  if (starts_with(file, std::string("II*\0", 4)) || starts_with(file, std::string("MM\0*", 4))) return "a TIFF file";
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

/// Keeps all pixels.
class WholePicture : public RowSink {
 public:
  void begin(int64_t height, int64_t width) override {
    raster = {height, width, 3, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
  }
  int64_t next_row(int64_t y) const override { return y; }
  void take(int64_t y, const uint8_t* rgb) override {
    const int64_t values = raster.width * 3;
    std::copy_n(rgb, values, raster.values.data() + y * values);
  }

  Raster raster;
};

/// Keeps the pixels of some grids.
class GridPixels : public RowSink {
 public:
  explicit GridPixels(const std::function<std::vector<Grid>(int64_t, int64_t)>& choose_grids)
      : choose_grids_(choose_grids) {}

  void begin(int64_t height, int64_t width) override {
    height_ = height;
    for (Grid& grid : choose_grids_(height, width)) {
      const auto rows = static_cast<int64_t>(grid.rows.size()), columns = static_cast<int64_t>(grid.columns.size());
      rasters.push_back({rows, columns, 3, std::vector<uint8_t>(static_cast<size_t>(rows * columns * 3))});
      parts_.push_back({std::move(grid), 0});
    }
  }

  int64_t next_row(int64_t y) const override {
    int64_t next = height_;
    for (const Part& part : parts_) {
      if (part.done < part.grid.rows.size()) next = std::min(next, std::max(y, part.grid.rows[part.done]));
    }
    return next;
  }

  void take(int64_t y, const uint8_t* rgb) override {
    for (size_t k = 0; k < parts_.size(); ++k) {
      auto& [grid, done] = parts_[k];
      const size_t values = grid.columns.size() * 3;
      for (; done < grid.rows.size() && grid.rows[done] == y; ++done) {
        uint8_t* to = rasters[k].values.data() + done * values;
        for (const int64_t x : grid.columns) {
          for (int64_t c = 0; c < 3; ++c) *to++ = rgb[3 * x + c];
        }
      }
    }
  }

  std::vector<Raster> rasters;

 private:
  struct Part {
    Grid grid;
    size_t done;  // rows that were taken
  };

  const std::function<std::vector<Grid>(int64_t, int64_t)>& choose_grids_;
  int64_t height_ = 0;
  std::vector<Part> parts_;
};

void decode(const std::filesystem::path& path, RowSink& sink) {
  const char* const expected = "a JPEG or PNG picture";
  const File file = read_file(path, expected);
  if (is_jpeg(file)) return decode_jpeg(file, sink);
  if (is_png(file)) return decode_png(file, sink);
  fail(path, expected, describe(file));
}

}  // namespace

void fail(const std::filesystem::path& path, const std::string& expected, const std::string& found) {
  throw std::runtime_error(path.string() + ": expected " + expected + ", found " + found);
}

void check_size(const File& file, int64_t height, int64_t width, int64_t min_bytes) {
  const std::string size = std::to_string(width) + " x " + std::to_string(height) + " pixels";
  if (height > kMaxPixels / width) {
    fail(file.path, "a picture of at most " + std::to_string(kMaxPixels) + " pixels", size);
  }
  const auto bytes = static_cast<int64_t>(file.bytes.size());
  if (bytes < min_bytes) {
    fail(file.path, "at least " + std::to_string(min_bytes) + " bytes for " + size,
         std::to_string(bytes) + " (truncated or damaged)");
  }
}

bool is_jpeg(const File& file) {
  return starts_with(file, "\xff\xd8\xff");
}

bool is_png(const File& file) {
  return starts_with(file, "\x89PNG\r\n\x1a\n");
}

}  // namespace codec

Raster read_rgb(const std::filesystem::path& path) {
  codec::WholePicture picture;
  codec::decode(path, picture);
  return std::move(picture.raster);
}

std::vector<Raster> read_rgb(const std::filesystem::path& path,
                             const std::function<std::vector<Grid>(int64_t, int64_t)>& choose_grids) {
  codec::GridPixels pixels(choose_grids);
  codec::decode(path, pixels);
  return std::move(pixels.rasters);
}

IndexRaster read_indices(const std::filesystem::path& path) {
  const char* const expected = "a label map (grey or palette PNG)";
  const codec::File file = codec::read_file(path, expected);
  if (codec::is_png(file)) return codec::decode_png_indices(file);
  codec::fail(path, expected,
              codec::is_jpeg(file) ? "a JPEG, whose compression changes the values" : codec::describe(file));
}

}  // namespace smooseg::app
