// TIFF through libtiff, where the program is built with it. Strips and tiles are turned into RGB one at a time.

#include "data/codec.hpp"

#ifdef SMOOSEG_WITH_TIFF

#include <tiffio.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

namespace smooseg::app {

bool reads_tiff() {
  return true;
}

namespace codec {
namespace {

/// A file in memory as libtiff reads it, and the first error about it.
struct TiffSource {
  const File& file;
  toff_t position = 0;
  char message[256] = "";
};

TiffSource& source_of(thandle_t handle) {
  return *static_cast<TiffSource*>(handle);
}

tmsize_t read_tiff(thandle_t handle, void* target, tmsize_t count) {
  TiffSource& source = source_of(handle);
  const auto size = static_cast<toff_t>(source.file.bytes.size());
  const toff_t left = source.position < size ? size - source.position : 0;
  const auto taken = std::min(left, static_cast<toff_t>(count));
  std::memcpy(target, source.file.bytes.data() + (size - left), static_cast<size_t>(taken));
  source.position += taken;
  return static_cast<tmsize_t>(taken);
}

tmsize_t refuse_write(thandle_t, void*, tmsize_t) {
  return -1;
}

toff_t seek_tiff(thandle_t handle, toff_t offset, int whence) {
  TiffSource& source = source_of(handle);
  const toff_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? source.position : source.file.bytes.size();
  return source.position = base + offset;
}

int close_tiff(thandle_t) {
  return 0;
}

toff_t size_of_tiff(thandle_t handle) {
  return source_of(handle).file.bytes.size();
}

void note_tiff_error(thandle_t handle, const char*, const char* format, va_list arguments) {
  if (handle == nullptr || source_of(handle).message[0] != '\0') return;
  std::vsnprintf(source_of(handle).message, sizeof source_of(handle).message, format, arguments);
}

/// Silences what libtiff would print; errors go to the file's `TiffSource`.
void set_tiff_handlers() {
  static const bool done = [] {
    TIFFSetWarningHandler(nullptr);
    TIFFSetErrorHandler(nullptr);
    TIFFSetErrorHandlerExt(note_tiff_error);
    return true;
  }();
  static_cast<void>(done);
}

class TiffReader {
 public:
  explicit TiffReader(const File& file) : source_{file}, tiff_(nullptr, TIFFClose) {
    set_tiff_handlers();
    tiff_.reset(TIFFClientOpen("", "rm", &source_, read_tiff, refuse_write, seek_tiff, close_tiff, size_of_tiff,
                               nullptr, nullptr));
    if (!tiff_) fail_tiff("the end of its directory missing");
    uint32_t height = 0, width = 0;
    TIFFGetField(tiff_.get(), TIFFTAG_IMAGELENGTH, &height);
    TIFFGetField(tiff_.get(), TIFFTAG_IMAGEWIDTH, &width);
    if (height == 0 || width == 0) fail_tiff("no size");
    height_ = height;
    width_ = width;
    // Deflate and LZW shrink their input to 1/1032 at best, and nothing that is read here by more but CCITT's fax codes.
    const uint16_t compression = field(TIFFTAG_COMPRESSION, COMPRESSION_NONE);
    const bool fax = compression >= COMPRESSION_CCITTRLE && compression <= COMPRESSION_CCITTFAX4;
    check_size(file, height_, width_, fax ? 0 : height_ * width_ / 8 / 1032);
    keep_colors_beside_alpha();
    char reason[1024] = "";
    if (TIFFRGBAImageOK(tiff_.get(), reason) == 0) fail(file.path, "a TIFF of colours or grey levels", reason);
  }

  int64_t height() const { return height_; }
  int64_t width() const { return width_; }

  /// Calls f(y, pixels) for each row, from the top: red in the lowest byte of a pixel, then green and blue.
  template <class F>
  void for_each_row(const F& f) {
    TIFFIsTiled(tiff_.get()) != 0 ? read_tiles(f) : read_strips(f);
  }

 private:
  template <class F>
  void read_strips(const F& f) {
    uint32_t at_once = 0;
    TIFFGetFieldDefaulted(tiff_.get(), TIFFTAG_ROWSPERSTRIP, &at_once);
    const int64_t rows = std::min<int64_t>(std::max<uint32_t>(at_once, 1), height_);
    std::vector<uint32_t> raster(static_cast<size_t>(rows * width_));
    for (int64_t y = 0; y < height_; y += rows) {
      if (TIFFReadRGBAStripExt(tiff_.get(), static_cast<uint32_t>(y), raster.data(), 1) == 0) fail_tiff("damage");
      const int64_t count = std::min(rows, height_ - y);
      for (int64_t i = 0; i < count; ++i) f(y + i, raster.data() + (count - 1 - i) * width_);  // from the bottom
    }
  }

  template <class F>
  void read_tiles(const F& f) {
    uint32_t tile_height = 0, tile_width = 0;
    TIFFGetField(tiff_.get(), TIFFTAG_TILELENGTH, &tile_height);
    TIFFGetField(tiff_.get(), TIFFTAG_TILEWIDTH, &tile_width);
    if (tile_height == 0 || tile_width == 0 || int64_t{tile_height} > kMaxPixels / tile_width) {
      fail_tiff("tiles of an impossible size");
    }
    std::vector<uint32_t> raster(size_t{tile_height} * tile_width);
    std::vector<uint32_t> band(size_t{tile_height} * static_cast<size_t>(width_));
    for (int64_t y = 0; y < height_; y += tile_height) {
      const int64_t rows = std::min<int64_t>(tile_height, height_ - y);
      for (int64_t x = 0; x < width_; x += tile_width) {
        if (TIFFReadRGBATileExt(tiff_.get(), static_cast<uint32_t>(x), static_cast<uint32_t>(y), raster.data(), 1) ==
            0) {
          fail_tiff("damage");
        }
        const int64_t columns = std::min<int64_t>(tile_width, width_ - x);
        for (int64_t i = 0; i < rows; ++i) {
          const uint32_t* const row = raster.data() + (tile_height - 1 - i) * int64_t{tile_width};
          std::copy_n(row, columns, band.data() + i * width_ + x);
        }
      }
      for (int64_t i = 0; i < rows; ++i) f(y + i, band.data() + i * width_);
    }
  }

  uint16_t field(uint32_t tag, uint16_t fallback) {
    uint16_t value = fallback;
    return TIFFGetField(tiff_.get(), tag, &value) == 1 ? value : fallback;
  }

  /// A fourth channel, whatever the file says of it, is not to change the colours, as libtiff would with alpha.
  void keep_colors_beside_alpha() {
    uint16_t count = 0;
    uint16_t* kinds = nullptr;
    if (TIFFGetField(tiff_.get(), TIFFTAG_EXTRASAMPLES, &count, &kinds) != 1 || count == 0) return;
    const std::vector<uint16_t> unspecified(count, EXTRASAMPLE_UNSPECIFIED);
    TIFFSetField(tiff_.get(), TIFFTAG_EXTRASAMPLES, count, unspecified.data());
  }

  [[noreturn]] void fail_tiff(const std::string& otherwise) const {
    fail(source_.file.path, "an intact TIFF",
         "an error: " + (source_.message[0] != '\0' ? std::string(source_.message) : otherwise));
  }

  TiffSource source_;
  std::unique_ptr<TIFF, void (*)(TIFF*)> tiff_;
  int64_t height_ = 0, width_ = 0;
};

}  // namespace

Tensor decode_tiff(const File& file, const RowChoice& choose_rows) {
  TiffReader reader(file);
  const std::vector<int64_t> rows = choose_rows(reader.height(), reader.width());
  const Tensor picture = torch::empty({static_cast<int64_t>(rows.size()), reader.width(), 3}, torch::kUInt8);
  auto* target = picture.data_ptr<uint8_t>();
  auto next = rows.begin();
  reader.for_each_row([&](int64_t y, const uint32_t* pixels) {
    if (next == rows.end() || *next != y) return;
    ++next;
    for (int64_t x = 0; x < reader.width(); ++x) {
      *target++ = static_cast<uint8_t>(TIFFGetR(pixels[x]));
      *target++ = static_cast<uint8_t>(TIFFGetG(pixels[x]));
      *target++ = static_cast<uint8_t>(TIFFGetB(pixels[x]));
    }
  });
  return picture;
}

}  // namespace codec
}  // namespace smooseg::app

#else

namespace smooseg::app {

bool reads_tiff() {
  return false;
}

Tensor codec::decode_tiff(const File& file, const RowChoice&) {
  fail_unbuilt(file, "a TIFF file", "libtiff-dev");
}

}  // namespace smooseg::app

#endif
