#include "commands/segment_windows.hpp"

#include <optional>

#include "data/image_file.hpp"
#include "data/tiff_writer.hpp"
#include "data/windows.hpp"
#include "model/labels.hpp"
#include "report/pictures.hpp"

namespace smooseg::app {
namespace {

/// The three files of a picture, written from the top.
class LabelFiles {
 public:
  LabelFiles(const WindowOutputs& outputs, int64_t height, int64_t width, const GeoReference& reference)
      : outputs_(outputs),
        height_(height),
        index_(path("index"), {height, width, 1, outputs.legend.colors, reference}),
        color_(path("color"), {height, width, 3, {}, reference}),
        overlay_(path("overlay"), {height, width, 3, {}, reference}) {}

  std::filesystem::path path(const char* kind) const { return outputs_.folder / (outputs_.name + "_" + kind + ".tif"); }

  /// The next rows. @param picture (n,W,3) uint8. @param indices (n,W) uint8.
  void write(const Tensor& picture, const Tensor& indices) {
    index_.write(indices);
    color_.write(colorize(indices, outputs_.legend.colors));
    written_ += indices.size(0);
    // Whether a border runs along a row shows with the next one: the last row waits for it, with the row before it.
    picture_ = picture_.defined() ? torch::cat({picture_, picture}) : picture;
    indices_ = indices_.defined() ? torch::cat({indices_, indices}) : indices;
    const int64_t held = indices_.size(0), end = written_ == height_ ? held : held - 1;
    const Tensor drawn = overlay(picture_, indices_, outputs_.legend.colors, outputs_.alpha);
    if (end > waiting_) overlay_.write(drawn.slice(0, waiting_, end));
    const int64_t kept = std::max<int64_t>(0, end - 1);
    picture_ = picture_.slice(0, kept).clone();
    indices_ = indices_.slice(0, kept).clone();
    waiting_ = end - kept;
  }

  void finish() {
    index_.finish();
    color_.finish();
    overlay_.finish();
  }

 private:
  const WindowOutputs& outputs_;
  int64_t height_, written_ = 0;
  TiffWriter index_, color_, overlay_;
  Tensor picture_, indices_;  // the last rows
  int64_t waiting_ = 0;       // the first of them whose overlay is not written
};

}  // namespace

std::filesystem::path segment_in_windows(const WindowedPicture& picture, const WindowOutputs& outputs,
                                         SegmenterImpl& segmenter, const CrfSettings& crf, int64_t threads,
                                         torch::Device device) {
  PictureWindows pixels(open_picture(picture.path), Transform{});
  const int64_t height = pixels.height(), width = pixels.width();
  std::optional<PictureWindows> seen;
  WindowSource source;
  int64_t seen_height = 0, seen_width = 0;
  if (picture.features.defined()) {
    const Tensor map = picture.features.unsqueeze(0).to(device);
    source = [map](int64_t top, int64_t left, int64_t h, int64_t w) {
      return map.narrow(2, top, h).narrow(3, left, w);
    };
    seen_height = map.size(2);
    seen_width = map.size(3);
  } else {
    seen.emplace(open_picture(picture.path), Transform{picture.resolution});
    source = window_source(*seen, normalization_of(*segmenter.backbone), device);
    seen_height = seen->height();
    seen_width = seen->width();
  }
  WindowSegmenter labels(segmenter, seen_height, seen_width, std::move(source), height, width);
  LabelFiles files(outputs, height, width, read_georeference(picture.path));
  const Tensor index_of_cluster = torch::tensor(outputs.legend.index_of_cluster, torch::kInt64).to(torch::kUInt8);

  Tensor held;  // rows of the picture from `first_held` on, for the CRF's tiles overlap
  int64_t first_held = 0;
  const auto rows = [&](int64_t begin, int64_t end) {
    held = pixels.read(begin, 0, end - begin, width);
    first_held = begin;
    return held;
  };
  label_rows(labels, height, width, crf, threads, rows, [&](int64_t first, const Tensor& found) {
    const int64_t end = first + found.size(0);
    const Tensor part = crf.use ? held.slice(0, first - first_held, end - first_held) : rows(first, end);
    files.write(part, mapped(found, index_of_cluster));
  });
  pixels.finish();
  files.finish();
  return files.path("overlay");
}

}  // namespace smooseg::app
