#include "data/tiff_writer.hpp"

#include <c10/util/Exception.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <stdexcept>

#include "data/codec.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/io/atomic_file.hpp"

#ifdef SMOOSEG_WITH_TIFF

#include "data/tiff_stream.hpp"

namespace smooseg::app {
namespace {

constexpr int64_t kTile = 256;

/// A tag's values, none where the file lacks it.
template <class Value>
std::vector<Value> values_of(TIFF* tiff, uint32_t tag) {
  uint16_t count = 0;
  const Value* values = nullptr;
  if (TIFFGetField(tiff, tag, &count, &values) != 1 || values == nullptr) return {};
  return {values, values + count};
}

template <class Value>
void set(TIFF* tiff, uint32_t tag, const std::vector<Value>& values) {
  if (!values.empty()) TIFFSetField(tiff, tag, static_cast<int>(values.size()), values.data());
}

}  // namespace

GeoReference read_georeference(const std::filesystem::path& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"), std::fclose);
  if (!file) return {};
  const codec::TiffStream stream(file.get(), "r");
  TIFF* const tiff = stream.get();
  if (tiff == nullptr) return {};
  GeoReference found;
  found.pixel_scale = values_of<double>(tiff, codec::kModelPixelScale);
  found.tie_points = values_of<double>(tiff, codec::kModelTiepoint);
  found.transformation = values_of<double>(tiff, codec::kModelTransformation);
  found.double_parameters = values_of<double>(tiff, codec::kGeoDoubleParams);
  found.keys = values_of<uint16_t>(tiff, codec::kGeoKeyDirectory);
  const char* text = nullptr;
  if (TIFFGetField(tiff, codec::kGeoAsciiParams, &text) == 1 && text != nullptr) found.ascii_parameters = text;
  return found;
}

class TiffWriter::Impl {
 public:
  Impl(const std::filesystem::path& path, const Options& options)
      : options_(options),
        path_(path),
        target_(path),
        file_(std::fopen(target_.temporary_path().c_str(), "w+be"), std::fclose),
        row_(static_cast<std::size_t>(options.width * options.channels)),
        band_(static_cast<std::size_t>(kTile) * row_),
        tile_(static_cast<std::size_t>(kTile * kTile * options.channels)) {
    if (!file_) io::AtomicFile::fail(path, io::AtomicFile::system_reason(errno));
    // What is compressed may be a little larger than what is not; offsets of a plain TIFF have 32 bits.
    constexpr int64_t kPlain = int64_t{1} << 31;
    errno = 0;
    stream_ = std::make_unique<codec::TiffStream>(
        file_.get(), options.height * options.width * options.channels > kPlain ? "w8" : "w");
    if (stream_->get() == nullptr) fail();
    set_fields(stream_->get());
  }

  void write(const uint8_t* rows, int64_t count) {
    for (int64_t i = 0; i < count; ++i, rows += row_) {
      std::copy_n(rows, row_, band_.data() + static_cast<std::size_t>(written_ % kTile) * row_);
      if (++written_ % kTile == 0) write_band(kTile);
    }
  }

  void finish() {
    if (const int64_t rest = written_ % kTile; rest > 0) write_band(rest);
    if (!stream_->close()) fail();
    if (std::fclose(file_.release()) != 0) io::AtomicFile::fail(path_, io::AtomicFile::system_reason(errno));
    target_.commit();
  }

  const Options& options() const { return options_; }
  int64_t written() const { return written_; }

 private:
  void set_fields(TIFF* tiff) {
    const bool colors = options_.channels == 3, palette = !options_.palette.empty();
    const bool deflate = TIFFIsCODECConfigured(COMPRESSION_ADOBE_DEFLATE) != 0;
    TIFFSetField(tiff, TIFFTAG_IMAGEWIDTH, static_cast<uint32_t>(options_.width));
    TIFFSetField(tiff, TIFFTAG_IMAGELENGTH, static_cast<uint32_t>(options_.height));
    TIFFSetField(tiff, TIFFTAG_SAMPLESPERPIXEL, static_cast<int>(options_.channels));
    TIFFSetField(tiff, TIFFTAG_BITSPERSAMPLE, 8);
    TIFFSetField(tiff, TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG);
    TIFFSetField(tiff, TIFFTAG_PHOTOMETRIC,
                 colors    ? PHOTOMETRIC_RGB
                 : palette ? PHOTOMETRIC_PALETTE
                           : PHOTOMETRIC_MINISBLACK);
    TIFFSetField(tiff, TIFFTAG_TILEWIDTH, static_cast<uint32_t>(kTile));
    TIFFSetField(tiff, TIFFTAG_TILELENGTH, static_cast<uint32_t>(kTile));
    TIFFSetField(tiff, TIFFTAG_COMPRESSION, deflate ? COMPRESSION_ADOBE_DEFLATE : COMPRESSION_LZW);
    if (colors) TIFFSetField(tiff, TIFFTAG_PREDICTOR, PREDICTOR_HORIZONTAL);
    if (palette) {
      std::array<std::array<uint16_t, 256>, 3> map{};
      for (std::size_t k = 0; k < options_.palette.size(); ++k) {
        for (std::size_t c = 0; c < 3; ++c) map[c][k] = static_cast<uint16_t>(options_.palette[k][c] * 257);
      }
      TIFFSetField(tiff, TIFFTAG_COLORMAP, map[0].data(), map[1].data(), map[2].data());
    }
    const GeoReference& reference = options_.reference;
    set(tiff, codec::kModelPixelScale, reference.pixel_scale);
    set(tiff, codec::kModelTiepoint, reference.tie_points);
    set(tiff, codec::kModelTransformation, reference.transformation);
    set(tiff, codec::kGeoKeyDirectory, reference.keys);
    set(tiff, codec::kGeoDoubleParams, reference.double_parameters);
    if (!reference.ascii_parameters.empty()) {
      TIFFSetField(tiff, codec::kGeoAsciiParams, reference.ascii_parameters.c_str());
    }
  }

  /// Writes the row of tiles that the last rows make up.
  void write_band(int64_t rows) {
    const auto pixel = static_cast<std::size_t>(options_.channels), tile_row = static_cast<std::size_t>(kTile) * pixel;
    errno = 0;
    for (int64_t x = 0; x < options_.width; x += kTile) {
      std::fill(tile_.begin(), tile_.end(), uint8_t{0});
      const std::size_t left = static_cast<std::size_t>(x) * pixel;
      for (std::size_t y = 0; y < static_cast<std::size_t>(rows); ++y) {
        std::copy_n(band_.data() + y * row_ + left, std::min(tile_row, row_ - left), tile_.data() + y * tile_row);
      }
      const uint32_t number = TIFFComputeTile(stream_->get(), static_cast<uint32_t>(x),
                                              static_cast<uint32_t>((written_ - 1) / kTile * kTile), 0, 0);
      if (TIFFWriteEncodedTile(stream_->get(), number, tile_.data(), static_cast<tmsize_t>(tile_.size())) < 0) fail();
    }
  }

  [[noreturn]] void fail() const {
    const std::string reason = errno != 0 ? io::AtomicFile::system_reason(errno) : stream_->message();
    io::AtomicFile::fail(path_, reason);
  }

  Options options_;
  std::filesystem::path path_;
  io::AtomicFile target_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::unique_ptr<codec::TiffStream> stream_;
  std::size_t row_;                   // values of a row
  std::vector<uint8_t> band_, tile_;  // rows for which no tile is written yet; a tile
  int64_t written_ = 0;               // rows so far
};

#else

namespace smooseg::app {

GeoReference read_georeference(const std::filesystem::path&) {
  return {};
}

class TiffWriter::Impl {
 public:
  Impl(const std::filesystem::path& path, const Options& options) : options_(options) {
    codec::fail(path, "a program that writes TIFF files",
                "one that was built without libtiff-dev: install that package and run cmake/build.sh");
  }
  void write(const uint8_t*, int64_t) {}
  void finish() {}
  const Options& options() const { return options_; }
  int64_t written() const { return 0; }

 private:
  Options options_;
};

#endif

TiffWriter::TiffWriter(const std::filesystem::path& path, const Options& options) {
  TORCH_CHECK(options.height >= 1 && options.width >= 1 && (options.channels == 1 || options.channels == 3) &&
                  options.palette.size() <= 256 && (options.palette.empty() || options.channels == 1),
              "TiffWriter: expected a picture of 1 or 3 channels, a palette of at most 256 colours for 1, got ",
              options.height, " x ", options.width, " x ", options.channels, " and ", options.palette.size(),
              " colours");
  impl_ = std::make_unique<Impl>(path, options);
}

TiffWriter::~TiffWriter() = default;

void TiffWriter::write(const Tensor& rows) {
  smooseg::detail::check_defined(rows, "TiffWriter", "rows");
  const Options& o = impl_->options();
  const bool right_shape =
      rows.dim() == (o.channels == 1 ? 2 : 3) && rows.size(1) == o.width && (o.channels == 1 || rows.size(2) == 3);
  TORCH_CHECK(right_shape && rows.scalar_type() == torch::kUInt8 && rows.is_cpu(), "TiffWriter: expected rows of ",
              o.width, " pixels and ", o.channels, " channels, uint8, on the CPU, got ",
              smooseg::detail::shape_of(rows), ", ", rows.scalar_type(), ", on ", rows.device());
  TORCH_CHECK(impl_->written() + rows.size(0) <= o.height, "TiffWriter: expected ", o.height, " rows in all, got ",
              impl_->written() + rows.size(0));
  impl_->write(rows.contiguous().data_ptr<uint8_t>(), rows.size(0));
}

void TiffWriter::finish() {
  TORCH_CHECK(impl_->written() == impl_->options().height, "TiffWriter: expected ", impl_->options().height,
              " rows in all, got ", impl_->written());
  impl_->finish();
}

}  // namespace smooseg::app
