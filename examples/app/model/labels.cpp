#include "model/labels.hpp"

#include <algorithm>

#include "smooseg/crf/dense_crf.hpp"
#include "smooseg/detail/tiles.hpp"

namespace smooseg::app {
namespace {

/// The log-softmax of the logits differs from the logits by one constant a pixel, which changes nothing.
Tensor energies_of(const CrfSettings& settings, const Tensor& logits) {
  return logits.to(torch::kCPU, torch::kFloat32).mul_(-settings.scale);
}

}  // namespace

Tensor labels_of(SegmenterImpl& segmenter, const Tensor& images, int64_t out_height, int64_t out_width) {
  return segmenter.labels(images, out_height, out_width);
}

Tensor crf_energies(SegmenterImpl& segmenter, const CrfSettings& settings, const Tensor& images, int64_t out_height,
                    int64_t out_width) {
  return energies_of(settings, segmenter.logits(images, out_height, out_width));
}

Tensor crf_labels_of(SegmenterImpl& segmenter, const CrfSettings& settings, int64_t threads, const Tensor& image,
                     const Tensor& picture) {
  const int64_t height = picture.size(0), width = picture.size(1);
  const crf::DenseCrfOptions options = crf_options(settings, threads);
  const Tensor code = segmenter.code(image), labels = torch::empty({height, width}, torch::kUInt8);
  for (const auto& rows : smooseg::detail::tile_spans(height, options.tile(), options.overlap())) {
    const int64_t end = std::min(rows.start + options.tile(), height);
    const Tensor energies =
        energies_of(settings, segmenter.logits_of_rows(code, image, height, width, rows.start, end))[0];
    const Tensor found = crf_labels(settings, threads, picture.slice(0, rows.start, end), energies);
    labels.slice(0, rows.keep_begin, rows.keep_end)
        .copy_(found.slice(0, rows.keep_begin - rows.start, rows.keep_end - rows.start));
  }
  return labels;
}

Tensor crf_labels(const CrfSettings& settings, int64_t threads, const Tensor& pictures, const Tensor& energies) {
  return crf::DenseCrf(crf_options(settings, threads)).labels_from_energies(pictures, energies);
}

void check_crf(const CrfSettings& settings) {
  crf::DenseCrf{crf_options(settings, 1)};
}

}  // namespace smooseg::app
