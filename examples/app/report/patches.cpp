#include "report/patches.hpp"

#include "data/transforms.hpp"

namespace smooseg::app {

std::optional<PatchMaps> patch_maps(SegmenterImpl& segmenter, const Tensor& pixels, torch::Device device) {
  const torch::NoGradGuard no_grad;
  const int64_t patch = segmenter.backbone->patch_size();
  const int64_t height = pixels.size(0) / patch * patch, width = pixels.size(1) / patch * patch;
  if (height == 0 || width == 0) return std::nullopt;
  const Tensor whole = normalize(pixels, normalization_of(*segmenter.backbone)).unsqueeze(0);
  const Tensor image = whole.narrow(2, 0, height).narrow(3, 0, width).contiguous().to(device);
  const Tensor features = segmenter.backbone->features(image);
  return PatchMaps{features, segmenter.projector->code(features)};
}

}  // namespace smooseg::app
