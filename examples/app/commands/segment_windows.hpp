#pragma once

// Labels of a picture that need not fit into memory, written as TIFF files.

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "data/feature_files.hpp"
#include "report/scores.hpp"
#include "settings/crf.hpp"
#include "smooseg/window_segmenter.hpp"

namespace smooseg::app {

struct WindowedPicture {
  std::filesystem::path path;
  int64_t resolution = 0;  ///< shorter side that the model sees; 0: the picture's own
  Tensor features = {};    ///< (C,h,w), what it sees instead, if defined
};

/// What becomes of the labels.
struct WindowOutputs {
  std::filesystem::path folder;
  std::string name;
  const Legend& legend;
  double alpha;  ///< of the overlay
};

/// Labels a picture window by window. Writes NAME_index.tif (a palette), NAME_color.tif and NAME_overlay.tif, with the
/// georeference of a picture that has one, and returns the path of the last.
/// @throws std::runtime_error for damaged pictures and where files cannot be written.
std::filesystem::path segment_in_windows(const WindowedPicture& picture, const WindowOutputs& outputs,
                                         SegmenterImpl& segmenter, const CrfSettings& crf, int64_t threads,
                                         torch::Device device);

}  // namespace smooseg::app
