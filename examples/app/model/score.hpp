#pragma once

// Labels of a whole split, counted against the truth.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "data/feature_files.hpp"
#include "data/transforms.hpp"
#include "data/windows.hpp"
#include "settings/crf.hpp"
#include "settings/protocol.hpp"
#include "smooseg/metrics/confusion.hpp"
#include "smooseg/segmenter.hpp"
#include "support/processes.hpp"

namespace smooseg::app {

struct ScoreOptions {
  int64_t resolution = 320;               ///< shorter side, and side of the centre crop
  int64_t batch = 8;                      ///< pictures at a time
  int64_t limit = 0;                      ///< pictures in all; 0: every one
  int64_t window_pixels = kWindowPixels;  ///< crops of more pixels are scored window by window
  int threads = 1;                        ///< that decode pictures and compute the CRF
  CrfSettings crf;                        ///< applied to the model's logits, if `use`
  std::optional<FeatureFiles> features =
      {};  ///< what the model sees in the place of pictures, for the backbone of files
  std::shared_ptr<Processes> processes = Processes::alone();  ///< that share the pictures
};

/// How many pictures are scored.
int64_t picture_count(const Dataset& dataset, const ScoreOptions& options);

/// What a score depends on beside model and pictures, for files of scores.
nlohmann::json conditions_of(const Dataset& dataset, const ScoreOptions& options, const ProtocolSettings& protocol);

/// Whether pictures of this resolution are scored window by window, since they are too large to be held as a whole.
bool in_windows(const ScoreOptions& options);

/// A sample's name as that of a file in one folder: '_' in the place of '/'.
std::string flat_name(const Sample& sample);

/// A batch of pictures of a data set as the model sees them: the middle squares of pictures that were resized.
struct LabelledBatch {
  Tensor images;          ///< (B,3,R,R) float32, normalised, on the device; of files the features of the whole picture
  Tensor labels;          ///< (B,R,R) int64, -1 where ignored
  Tensor pixels;          ///< (B,R,R,3) uint8, the pictures themselves
  int64_t height, width;  ///< in pixels, of what `images` show: R, or those of the whole picture
};

/// Calls f for all pictures of a labelled data set, of several processes for this one's share of them, batch by batch;
/// memory does not grow with their number.
/// @param with the normalisation of the backbone that they are for.
void for_each_batch(const Dataset& dataset, const Normalization& with, torch::Device device,
                    const ScoreOptions& options, const std::function<void(int64_t first, const LabelledBatch&)>& f);

/// A model's labels of a batch, (B,R,R) int64. The model is in evaluation mode.
Tensor labels_of(SegmenterImpl& segmenter, const LabelledBatch& batch, const ScoreOptions& options);

/// How often clusters meet classes in one picture, without the pairs that never do.
struct PictureCounts {
  struct Pair {
    int64_t cluster, label, pixels;
  };
  std::vector<Pair> pairs;

  /// Pixels whose label counts.
  int64_t pixels() const;

  /// Share of these whose cluster has their class; none where there are no such pixels.
  std::optional<double> accuracy(const metrics::Scores& matching) const;
};

/// Counts a model's labels of a labelled data set; all of several processes get the counts of all. The model is in
/// evaluation mode.
/// @param each gets the counts of each picture, in the order of the data set.
metrics::ConfusionMatrix score(SegmenterImpl& segmenter, const Dataset& dataset, torch::Device device,
                               const ScoreOptions& options, std::vector<PictureCounts>* each = nullptr);

}  // namespace smooseg::app
