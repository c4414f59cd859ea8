#pragma once

// The pictures of a report: which are shown, and what each run makes of them.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "report/run_folder.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

struct GalleryOptions {
  int64_t pictures = 12;     ///< chosen at random
  int64_t extremes = 4;      ///< of the best, of the worst and of those that differ the most between the runs
  int64_t side = 320;        ///< shorter side in pixels at most
  int64_t resolution = 320;  ///< shorter side in pixels as the model sees unlabelled pictures
  uint64_t seed = 0;
  std::string data;   ///< empty: the data set that was scored
  std::string split;  ///< empty: the one that was scored; of other data test, or train where there is no test
};

/// A picture and what is shown of it; all maps are of its size.
struct GalleryPicture {
  Sample sample;
  std::string group;                              ///< why it was chosen: a key of `gallery_groups`
  std::vector<std::optional<double>> accuracies;  ///< by run
  Tensor pixels;                                  ///< (h,w,3) uint8
  Tensor label;  ///< (h,w) int64: classes, -1 where ignored; undefined where there is none
  std::vector<Tensor>
      maps;  ///< by run: (h,w) int64, classes, or clusters where there are no labels; undefined: no model
};

struct Gallery {
  std::vector<GalleryPicture> pictures;
  bool labelled = false;
  int64_t side = 320;   ///< shorter side in pixels at most, on the page
  ClassTable classes;   ///< what the maps' indices mean; the last one is "no class", of clusters without a class
  std::string missing;  ///< why there are no pictures
};

/// "random", "worst", "best" and "changed", in the order of the page, each with a title.
const std::vector<std::pair<std::string, std::string>>& gallery_groups();

/// Chooses pictures, and reads them: of the data set that the first run with scores was scored on, else of
/// `options.data`, without labels.
/// @throws std::runtime_error where `options.data` or a picture cannot be read, or the runs' classes differ.
Gallery choose_pictures(const std::vector<RunFolder>& runs, const GalleryOptions& options, int threads);

/// Appends a run's map of each picture, labelled as `evaluate` labelled it.
/// @param segmenter in evaluation mode, with the run's `flip`. Null, or a run without scores among pictures with labels:
///   there are no maps.
void add_maps(Gallery& gallery, const RunFolder& run, SegmenterImpl* segmenter, torch::Device device, int threads);

/// The pictures as HTML that needs no script.
std::string gallery_html(const Gallery& gallery, const std::vector<RunFolder>& runs);

}  // namespace smooseg::app
