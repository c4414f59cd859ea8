#pragma once

// TIFF files written row by row, so that they need not fit into memory.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/image_file.hpp"

namespace smooseg::app {

/// Where a picture lies on the Earth: the tags of GeoTIFF (OGC 19-008r4) as they stand in a file.
struct GeoReference {
  std::vector<double> pixel_scale, tie_points, transformation, double_parameters;
  std::vector<uint16_t> keys;
  std::string ascii_parameters;

  bool empty() const { return tie_points.empty() && transformation.empty() && keys.empty(); }
};

/// Those of a TIFF; empty where it has none, for files of other formats, and for what cannot be read.
GeoReference read_georeference(const std::filesystem::path& path);

/// A TIFF in tiles, compressed without losses, a BigTIFF where it may become larger than 4 GB. It appears whole or not
/// at all.
class TiffWriter {
 public:
  struct Options {
    int64_t height, width;
    int64_t channels = 1;             ///< 3: RGB; 1: indices of `palette`, or grey levels where there is none
    std::vector<Color> palette = {};  ///< at most 256
    GeoReference reference = {};
  };

  /// @throws std::runtime_error where the file cannot be written, and in a program without libtiff.
  TiffWriter(const std::filesystem::path& path, const Options& options);
  ~TiffWriter();
  TiffWriter(const TiffWriter&) = delete;
  TiffWriter& operator=(const TiffWriter&) = delete;

  /// The next rows. @param rows (n,W,3) or (n,W) uint8, on the CPU.
  /// @throws c10::Error for other tensors and more rows than the picture has; std::runtime_error where the file cannot
  ///   be written.
  void write(const Tensor& rows);

  /// After the last row. @throws std::runtime_error where the file cannot be written; c10::Error where rows are missing.
  void finish();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace smooseg::app
