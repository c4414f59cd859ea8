// TIFF through libtiff, where the program is built with it. A strip, or a row of tiles, is decoded at a time, and only
// those in which a wanted row lies.

#include "data/codec.hpp"

#ifdef SMOOSEG_WITH_TIFF

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/tiff_stream.hpp"

namespace smooseg::app {

bool reads_tiff() {
  return true;
}

namespace codec {
namespace {

/// A TIFF's size, and in which parts it is stored.
class TiffReader {
 public:
  explicit TiffReader(File file) : file_(std::move(file)), stream_(file_.stream(), "r") {
    if (tiff() == nullptr) fail_tiff("the end of its directory missing");
    height_ = field<uint32_t>(TIFFTAG_IMAGELENGTH, 0);
    width_ = field<uint32_t>(TIFFTAG_IMAGEWIDTH, 0);
    if (height_ == 0 || width_ == 0) fail_tiff("no size");
    constexpr int64_t kLongest = std::numeric_limits<int32_t>::max();
    if (height_ > kLongest || width_ > kLongest) {
      fail(path(), "sides of at most " + std::to_string(kLongest) + " pixels", size_text(height_, width_));
    }
    // Deflate and LZW shrink their input to 1/1032 at best, and nothing that is read here by more but CCITT's fax codes.
    const auto compression = field<uint16_t>(TIFFTAG_COMPRESSION, COMPRESSION_NONE);
    const bool fax = compression >= COMPRESSION_CCITTRLE && compression <= COMPRESSION_CCITTFAX4;
    check_bytes(file_, height_, width_, fax ? 0 : height_ * width_ / 8 / 1032);
    tiled_ = TIFFIsTiled(tiff()) != 0;
    rows_at_once_ = field<uint32_t>(tiled_ ? TIFFTAG_TILELENGTH : TIFFTAG_ROWSPERSTRIP, tiled_ ? 0 : UINT32_MAX);
    if (!tiled_) rows_at_once_ = std::min(std::max<int64_t>(rows_at_once_, 1), height_);
    columns_at_once_ = tiled_ ? field<uint32_t>(TIFFTAG_TILEWIDTH, 0) : width_;
    if (rows_at_once_ < 1 || columns_at_once_ < 1) fail_tiff("tiles of an impossible size");
    if (tiled_ && compression == COMPRESSION_NONE) {
      // With a buffer of its own, rounded up to kilobytes, libtiff takes smaller tiles for damaged ones.
      raw_.resize(static_cast<std::size_t>(std::clamp<tmsize_t>(TIFFTileSize(tiff()), 1, file_.size())));
      TIFFReadBufferSetup(tiff(), raw_.data(), static_cast<tmsize_t>(raw_.size()));
    }
    // A row of tiles is held, and a last tile may reach beyond the picture.
    const int64_t held = std::max(columns_at_once_, width_);
    if (rows_at_once_ > kMaxPixels / held) {
      fail(path(),
           std::string("a TIFF whose ") + (tiled_ ? "rows of tiles" : "strips") + " hold at most " +
               std::to_string(kMaxPixels) + " pixels",
           size_text(rows_at_once_, held) + " in one: rewrite it with tiles, as 'tiffcp -t' does");
    }
  }

  const std::filesystem::path& path() const { return file_.path(); }
  TIFF* tiff() const { return stream_.get(); }
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  bool tiled() const { return tiled_; }

  /// Of a strip or tile.
  int64_t rows_at_once() const { return rows_at_once_; }
  int64_t columns_at_once() const { return columns_at_once_; }

  template <class T>
  T field(uint32_t tag, T fallback) const {
    T value = fallback;
    return TIFFGetFieldDefaulted(tiff(), tag, &value) == 1 ? value : fallback;
  }

  /// Makes `band`, all columns of the strip or row of tiles in which row y lies, of `size` values a pixel, and returns
  /// its first row. `decode(x, y, target)` decodes the strip or tile at a pixel, rows_at_once x columns_at_once.
  template <class Value, class Decode>
  int64_t read_band(int64_t y, std::size_t size, std::vector<Value>& band, std::vector<Value>& part,
                    const Decode& decode) {
    const int64_t begin = y / rows_at_once_ * rows_at_once_;
    const auto part_row = static_cast<std::size_t>(columns_at_once_) * size,
               row = static_cast<std::size_t>(width_) * size;
    band.resize(static_cast<std::size_t>(rows_at_once_) * row);
    if (!tiled_) {
      if (!decode(int64_t{0}, begin, band.data())) fail_tiff("damage");
      return begin;
    }
    part.resize(static_cast<std::size_t>(rows_at_once_) * part_row);
    for (int64_t x = 0; x < width_; x += columns_at_once_) {
      if (!decode(x, begin, part.data())) fail_tiff("damage");
      const auto left = static_cast<std::size_t>(x) * size;
      for (std::size_t i = 0; i < static_cast<std::size_t>(rows_at_once_); ++i) {
        std::copy_n(part.data() + i * part_row, std::min(part_row, row - left), band.data() + i * row + left);
      }
    }
    return begin;
  }

  /// Refuses strips or tiles of other than one value of so many bytes a pixel.
  void check_parts(int64_t bytes) const {
    const tmsize_t size = tiled_ ? TIFFTileSize(tiff()) : TIFFStripSize(tiff());
    if (size != rows_at_once_ * columns_at_once_ * bytes) fail_tiff("strips or tiles of an unexpected size");
  }

  /// Decodes the strip or tile at a pixel as it is stored, one value of so many bytes a pixel.
  bool decode_values(int64_t x, int64_t y, int64_t bytes, uint8_t* target) const {
    const auto column = static_cast<uint32_t>(x), row = static_cast<uint32_t>(y);
    if (tiled_) {
      return TIFFReadEncodedTile(tiff(), TIFFComputeTile(tiff(), column, row, 0, 0), target, -1) ==
             TIFFTileSize(tiff());
    }
    return TIFFReadEncodedStrip(tiff(), TIFFComputeStrip(tiff(), row, 0), target, -1) ==
           std::min(rows_at_once_, height_ - y) * width_ * bytes;
  }

  /// Whether all strips and tiles lie within the file, also those that nobody wanted.
  void check_extent() {
    const uint32_t count = tiled_ ? TIFFNumberOfTiles(tiff()) : TIFFNumberOfStrips(tiff());
    const auto size = static_cast<uint64_t>(file_.size());
    for (uint32_t i = 0; i < count; ++i) {
      const uint64_t offset = TIFFGetStrileOffset(tiff(), i), bytes = TIFFGetStrileByteCount(tiff(), i);
      if (offset > size || bytes > size - offset) fail_tiff("the end of the file (truncated)");
    }
  }

  [[noreturn]] void fail_tiff(const std::string& otherwise) const {
    const std::string message = stream_.message();
    fail(path(), "an intact TIFF", "an error: " + (message.empty() ? otherwise : message));
  }

 private:
  File file_;
  std::vector<uint8_t> raw_;  // what is read of a tile without compression
  TiffStream stream_;
  int64_t height_ = 0, width_ = 0, rows_at_once_ = 0, columns_at_once_ = 0;
  bool tiled_ = false;
};

/// A stored value of 16 bits, which libtiff has turned to the machine's order.
uint16_t wide_value(const uint8_t* bytes) {
  uint16_t value = 0;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

class TiffPicture : public PictureRows {
 public:
  explicit TiffPicture(File file) : reader_(std::move(file)) {
    const auto photometric = reader_.field<uint16_t>(TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_RGB);
    // libtiff garbles grey tiles of 16 bits that reach beyond the picture, and cuts levels where it rounds colours.
    wide_grey_ = reader_.field<uint16_t>(TIFFTAG_SAMPLESPERPIXEL, 1) == 1 &&
                 reader_.field<uint16_t>(TIFFTAG_BITSPERSAMPLE, 1) == 16 &&
                 reader_.field<uint16_t>(TIFFTAG_SAMPLEFORMAT, SAMPLEFORMAT_UINT) == SAMPLEFORMAT_UINT &&
                 (photometric == PHOTOMETRIC_MINISBLACK || photometric == PHOTOMETRIC_MINISWHITE);
    from_white_ = photometric == PHOTOMETRIC_MINISWHITE;
    if (wide_grey_) {
      reader_.check_parts(2);
      return;
    }
    keep_colors_beside_alpha();
    char reason[1024] = "";
    if (TIFFRGBAImageOK(reader_.tiff(), reason) == 0) fail(reader_.path(), "a TIFF of colours or grey levels", reason);
  }
  int64_t height() const override { return reader_.height(); }
  int64_t width() const override { return reader_.width(); }

  void read(int64_t y, uint8_t* values) override {
    if (wide_grey_) return read_wide_grey(y, values);
    if (y < begin_ || y >= begin_ + reader_.rows_at_once()) {
      begin_ = reader_.read_band(y, 1, band_, part_, [&](int64_t x, int64_t top, uint32_t* target) {
        return decode(static_cast<uint32_t>(x), static_cast<uint32_t>(top), target);
      });
    }
    const uint32_t* const pixels = band_.data() + (y - begin_) * width();
    for (int64_t x = 0; x < width(); ++x) {
      *values++ = static_cast<uint8_t>(TIFFGetR(pixels[x]));
      *values++ = static_cast<uint8_t>(TIFFGetG(pixels[x]));
      *values++ = static_cast<uint8_t>(TIFFGetB(pixels[x]));
    }
  }

  void finish() override { reader_.check_extent(); }

 private:
  void read_wide_grey(int64_t y, uint8_t* values) {
    if (y < begin_ || y >= begin_ + reader_.rows_at_once()) {
      begin_ = reader_.read_band(y, 2, grey_band_, grey_part_, [&](int64_t x, int64_t top, uint8_t* target) {
        return reader_.decode_values(x, top, 2, target);
      });
    }
    const uint8_t* const row = grey_band_.data() + (y - begin_) * width() * 2;
    for (int64_t x = 0; x < width(); ++x) {
      const auto level = static_cast<uint8_t>((wide_value(row + 2 * x) + 128) / 257);
      values = std::fill_n(values, kChannels, from_white_ ? static_cast<uint8_t>(255 - level) : level);
    }
  }

  /// libtiff gives rows from the bottom; those of a last strip that is shorter begin the raster.
  bool decode(uint32_t x, uint32_t y, uint32_t* target) {
    if (reader_.tiled()) {
      if (TIFFReadRGBATileExt(reader_.tiff(), x, y, target, 1) == 0) return false;
    } else if (TIFFReadRGBAStripExt(reader_.tiff(), y, target, 1) == 0) {
      return false;
    }
    const int64_t columns = reader_.columns_at_once();
    const int64_t rows =
        reader_.tiled() ? reader_.rows_at_once() : std::min(reader_.rows_at_once(), height() - int64_t{y});
    for (int64_t i = 0; i < rows / 2; ++i) {
      std::swap_ranges(target + i * columns, target + (i + 1) * columns, target + (rows - 1 - i) * columns);
    }
    return true;
  }

  /// A fourth channel, whatever the file says of it, is not to change the colours, as libtiff would with alpha.
  void keep_colors_beside_alpha() {
    uint16_t count = 0;
    uint16_t* kinds = nullptr;
    if (TIFFGetField(reader_.tiff(), TIFFTAG_EXTRASAMPLES, &count, &kinds) != 1 || count == 0) return;
    const std::vector<uint16_t> unspecified(count, EXTRASAMPLE_UNSPECIFIED);
    TIFFSetField(reader_.tiff(), TIFFTAG_EXTRASAMPLES, count, unspecified.data());
  }

  TiffReader reader_;
  bool wide_grey_ = false, from_white_ = false;
  std::vector<uint32_t> band_, part_;           // rows from `begin_` on; and a tile
  std::vector<uint8_t> grey_band_, grey_part_;  // the same of grey levels of 16 bits
  int64_t begin_ = std::numeric_limits<int32_t>::min();
};

class TiffIndices : public LabelRows {
 public:
  explicit TiffIndices(File file) : reader_(std::move(file)) {
    const auto channels = reader_.field<uint16_t>(TIFFTAG_SAMPLESPERPIXEL, 1);
    const auto bits = reader_.field<uint16_t>(TIFFTAG_BITSPERSAMPLE, 1);
    const auto format = reader_.field<uint16_t>(TIFFTAG_SAMPLEFORMAT, SAMPLEFORMAT_UINT);
    if (channels != 1 || (bits != 8 && bits != 16) || format != SAMPLEFORMAT_UINT) {
      fail(reader_.path(),
           "a label map of class indices (a TIFF of one channel of 8 or 16 bits, whole numbers without sign)",
           "a TIFF of " + std::to_string(channels) + (channels == 1 ? " channel of " : " channels of ") +
               std::to_string(bits) + " bits" + (format == SAMPLEFORMAT_UINT ? "" : " of another kind"));
    }
    const auto compression = reader_.field<uint16_t>(TIFFTAG_COMPRESSION, COMPRESSION_NONE);
    if (compression == COMPRESSION_JPEG || compression == COMPRESSION_OJPEG || compression == COMPRESSION_WEBP) {
      fail(reader_.path(), "a label map of class indices", "a TIFF whose compression changes the values");
    }
    bytes_ = bits / 8;
    reader_.check_parts(bytes_);
  }
  int64_t height() const override { return reader_.height(); }
  int64_t width() const override { return reader_.width(); }

  void read(int64_t y, int64_t* values) override {
    if (y < begin_ || y >= begin_ + reader_.rows_at_once()) {
      begin_ = reader_.read_band(
          y, static_cast<std::size_t>(bytes_), band_, part_,
          [&](int64_t x, int64_t top, uint8_t* target) { return reader_.decode_values(x, top, bytes_, target); });
    }
    const uint8_t* const row = band_.data() + (y - begin_) * width() * bytes_;
    for (int64_t x = 0; x < width(); ++x) {
      uint16_t wide = row[x];
      if (bytes_ == 2) wide = wide_value(row + 2 * x);
      values[x] = wide;
    }
  }

  void finish() override { reader_.check_extent(); }

 private:
  TiffReader reader_;
  int64_t bytes_ = 1;  // of a value
  std::vector<uint8_t> band_, part_;
  int64_t begin_ = std::numeric_limits<int32_t>::min();
};

}  // namespace

std::unique_ptr<PictureRows> open_tiff(File file) {
  return std::make_unique<TiffPicture>(std::move(file));
}

std::unique_ptr<LabelRows> open_tiff_indices(File file) {
  return std::make_unique<TiffIndices>(std::move(file));
}

}  // namespace codec
}  // namespace smooseg::app

#else

namespace smooseg::app {

bool reads_tiff() {
  return false;
}

std::unique_ptr<PictureRows> codec::open_tiff(File file) {
  fail_unbuilt(file, "a TIFF file", "libtiff-dev");
}

std::unique_ptr<LabelRows> codec::open_tiff_indices(File file) {
  fail_unbuilt(file, "a TIFF file", "libtiff-dev");
}

}  // namespace smooseg::app

#endif
