#include "model/labels.hpp"

#include "smooseg/crf/dense_crf.hpp"

namespace smooseg::app {

Tensor labels_of(SegmenterImpl& segmenter, const Tensor& images, int64_t out_height, int64_t out_width) {
  return segmenter.labels(images, out_height, out_width);
}

Tensor crf_energies(SegmenterImpl& segmenter, const CrfSettings& settings, const Tensor& images, int64_t out_height,
                    int64_t out_width) {
  // The log-softmax of the logits differs from the logits by one constant a pixel, which changes nothing.
  return segmenter.logits(images, out_height, out_width).to(torch::kCPU, torch::kFloat32).mul_(-settings.scale);
}

Tensor crf_labels(const CrfSettings& settings, int64_t threads, const Tensor& pictures, const Tensor& energies) {
  return crf::DenseCrf(crf_options(settings, threads)).labels_from_energies(pictures, energies);
}

void check_crf(const CrfSettings& settings) {
  crf::DenseCrf{crf_options(settings, 1)};
}

}  // namespace smooseg::app
