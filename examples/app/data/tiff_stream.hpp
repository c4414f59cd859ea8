#pragma once

// TIFF files as libtiff reads and writes them: through a stream, with errors kept, and with GeoTIFF's tags known. Only
// for programs that are built with libtiff.

#include <tiffio.h>

#include <cstdio>
#include <memory>
#include <string>

namespace smooseg::app::codec {

/// A tag of GeoTIFF that says where a picture lies on the Earth.
/// OGC 19-008r4, GeoTIFF 1.1
enum GeoTag : uint32_t {
  kModelPixelScale = 33550,
  kModelTiepoint = 33922,
  kModelTransformation = 34264,
  kGeoKeyDirectory = 34735,
  kGeoDoubleParams = 34736,
  kGeoAsciiParams = 34737,
};

/// A stream with a TIFF in it.
class TiffStream {
 public:
  /// @param stream open, and longer-lived. @param mode of `TIFFOpen`: "r", "w" or "w8".
  TiffStream(std::FILE* stream, const char* mode);
  TiffStream(const TiffStream&) = delete;
  TiffStream& operator=(const TiffStream&) = delete;

  /// Null where libtiff could not open it.
  TIFF* get() const { return tiff_.get(); }

  /// Writes what is left to write, and closes. @return whether there was no error.
  bool close();

  /// The first error's text; "" where there was none.
  std::string message() const { return state_.message; }

  /// What the callbacks see.
  struct State {
    std::FILE* stream;
    char message[256];
  };

 private:
  State state_;
  std::unique_ptr<TIFF, void (*)(TIFF*)> tiff_;
};

}  // namespace smooseg::app::codec
