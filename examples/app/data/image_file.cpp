#include "data/image_file.hpp"

#include <torch/types.h>

#include <algorithm>
#include <cstdint>

#include "smooseg/detail/check.hpp"

namespace smooseg::app {
namespace {

using smooseg::detail::check_defined;
using smooseg::detail::shape_of;

Raster raster_of(const Tensor& picture) {
  const Tensor bytes = picture.contiguous();
  const auto* const first = bytes.data_ptr<uint8_t>();
  return {picture.size(0), picture.size(1), picture.dim() == 3 ? 3 : 1, {first, first + bytes.numel()}};
}

}  // namespace

Tensor read_image(const std::filesystem::path& path) {
  const Raster raster = read_rgb(path);
  const Tensor image = torch::empty({raster.height, raster.width, 3}, torch::kUInt8);
  std::copy(raster.values.begin(), raster.values.end(), image.data_ptr<uint8_t>());
  return image;
}

Tensor read_label(const std::filesystem::path& path) {
  const IndexRaster raster = read_indices(path);
  const Tensor label = torch::empty({raster.height, raster.width}, torch::kInt64);
  std::copy(raster.values.begin(), raster.values.end(), label.data_ptr<int64_t>());
  return label;
}

void write_png(const std::filesystem::path& path, const Tensor& picture) {
  check_defined(picture, "write_png", "picture");
  const bool right_shape = picture.dim() == 2 || (picture.dim() == 3 && picture.size(2) == 3);
  TORCH_CHECK(right_shape && picture.numel() > 0 && picture.scalar_type() == torch::kUInt8 && picture.is_cpu(),
              "write_png: expected a picture of shape (H,W,3) or (H,W), uint8, on the CPU, got ", shape_of(picture),
              ", ", picture.scalar_type(), ", on ", picture.device());
  write_png(path, raster_of(picture));
}

void write_palette_png(const std::filesystem::path& path, const Tensor& indices, const std::vector<Color>& colors) {
  check_defined(indices, "write_palette_png", "indices");
  TORCH_CHECK(indices.dim() == 2 && indices.numel() > 0 && at::isIntegralType(indices.scalar_type(), false),
              "write_palette_png: expected indices of shape (H,W) and an integral dtype, got ", shape_of(indices), ", ",
              indices.scalar_type());
  TORCH_CHECK(!colors.empty() && colors.size() <= 256, "write_palette_png: expected 1 to 256 colours, got ",
              colors.size());
  const auto lowest = indices.min().item<int64_t>();
  const auto highest = indices.max().item<int64_t>();
  TORCH_CHECK(lowest >= 0 && highest < static_cast<int64_t>(colors.size()), "write_palette_png: expected indices 0..",
              colors.size() - 1, ", got ", lowest, "..", highest);
  write_png(path, raster_of(indices.to(torch::kCPU, torch::kUInt8)), colors);
}

}  // namespace smooseg::app
