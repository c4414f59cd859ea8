#include "model/labels.hpp"

#include <algorithm>
#include <vector>

#include "smooseg/crf/dense_crf.hpp"
#include "smooseg/detail/parallel.hpp"
#include "smooseg/detail/tiles.hpp"

namespace smooseg::app {
namespace {

/// The log-softmax of the logits differs from the logits by one constant a pixel, which changes nothing.
Tensor energies_of(const CrfSettings& settings, const Tensor& logits) {
  return logits.to(torch::kCPU, torch::kFloat32).mul_(-settings.scale);
}

/// `label_rows` with the CRF, whose tiles are those of `crf_labels`: as many at a time as there are threads.
void crf_label_rows(WindowSegmenter& picture, int64_t height, int64_t width, const CrfSettings& settings,
                    int64_t threads, const PixelRows& pixels, const LabelSink& sink) {
  const crf::DenseCrfOptions options = crf_options(settings, threads);
  const auto columns = smooseg::detail::tile_spans(width, options.tile(), options.overlap());
  const auto count = static_cast<int64_t>(columns.size());
  for (const auto& rows : smooseg::detail::tile_spans(height, options.tile(), options.overlap())) {
    const int64_t row_end = std::min(rows.start + options.tile(), height);
    const Tensor seen = pixels(rows.start, row_end);
    const Tensor labels = torch::empty({rows.keep_end - rows.keep_begin, width}, torch::kUInt8);
    for (int64_t first = 0; first < count; first += threads) {
      struct Tile {
        smooseg::detail::TileSpan span;
        int64_t end;
        Tensor energies;
      };
      std::vector<Tile> tiles;
      for (int64_t c = first; c < std::min(first + threads, count); ++c) {
        const auto& span = columns[static_cast<std::size_t>(c)];
        const int64_t end = std::min(span.start + options.tile(), width);
        tiles.push_back({span, end, energies_of(settings, picture.logits(rows.start, row_end, span.start, end))[0]});
      }
      smooseg::detail::parallel_for(static_cast<int64_t>(tiles.size()), threads, [&](int64_t i) {
        const Tile& tile = tiles[static_cast<std::size_t>(i)];
        const Tensor found = crf_labels(settings, 1, seen.slice(1, tile.span.start, tile.end), tile.energies);
        const auto kept = [&](const Tensor& t, int64_t top, int64_t left) {
          return t.narrow(0, top, rows.keep_end - rows.keep_begin)
              .narrow(1, left, tile.span.keep_end - tile.span.keep_begin);
        };
        kept(labels, 0, tile.span.keep_begin)
            .copy_(kept(found, rows.keep_begin - rows.start, tile.span.keep_begin - tile.span.start));
      });
    }
    sink(rows.keep_begin, labels);
  }
}

}  // namespace

Tensor labels_of(SegmenterImpl& segmenter, const Tensor& images, int64_t out_height, int64_t out_width) {
  return segmenter.labels(images, out_height, out_width);
}

Tensor crf_energies(SegmenterImpl& segmenter, const CrfSettings& settings, const Tensor& images, int64_t out_height,
                    int64_t out_width) {
  return energies_of(settings, segmenter.logits(images, out_height, out_width));
}

WindowSource window_source(PictureWindows& windows, const Normalization& with, torch::Device device) {
  return [&windows, with, device](int64_t top, int64_t left, int64_t height, int64_t width) {
    return normalize(windows.read(top, left, height, width), with).unsqueeze(0).to(device);
  };
}

void label_rows(WindowSegmenter& picture, int64_t height, int64_t width, const CrfSettings& settings, int64_t threads,
                const PixelRows& pixels, const LabelSink& sink) {
  if (settings.use) return crf_label_rows(picture, height, width, settings, threads, pixels, sink);
  constexpr int64_t kRows = 256;
  for (int64_t begin = 0; begin < height; begin += kRows) {
    sink(begin, picture.labels(begin, std::min(begin + kRows, height))[0].to(torch::kCPU, torch::kUInt8));
  }
}

Tensor crf_labels_of(SegmenterImpl& segmenter, const CrfSettings& settings, int64_t threads, const Tensor& image,
                     const Tensor& picture) {
  const Tensor labels = torch::empty({picture.size(0), picture.size(1)}, torch::kUInt8);
  const auto window = [&](int64_t top, int64_t left, int64_t height, int64_t width) {
    return image.narrow(2, top, height).narrow(3, left, width);
  };
  WindowSegmenter windows(segmenter, image.size(2), image.size(3), window, picture.size(0), picture.size(1));
  crf_label_rows(
      windows, picture.size(0), picture.size(1), settings, threads,
      [&](int64_t begin, int64_t end) { return picture.slice(0, begin, end); },
      [&](int64_t first, const Tensor& rows) { labels.narrow(0, first, rows.size(0)).copy_(rows); });
  return labels;
}

Tensor crf_labels(const CrfSettings& settings, int64_t threads, const Tensor& pictures, const Tensor& energies) {
  return crf::DenseCrf(crf_options(settings, threads)).labels_from_energies(pictures, energies);
}

void check_crf(const CrfSettings& settings) {
  crf::DenseCrf{crf_options(settings, 1)};
}

}  // namespace smooseg::app
