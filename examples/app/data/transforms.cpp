#include "data/transforms.hpp"

#include <torch/types.h>

#include <algorithm>
#include <cmath>

#include "data/codec.hpp"
#include "smooseg/backbone/backbone.hpp"
#include "smooseg/detail/check.hpp"

namespace smooseg::app {
namespace {

void check_picture(const Tensor& picture, const char* function) {
  smooseg::detail::check_defined(picture, function, "picture");
  const bool right_shape = picture.dim() == 2 || (picture.dim() == 3 && picture.size(2) == 3);
  TORCH_CHECK(right_shape && picture.numel() > 0, function, ": expected a picture of shape (H,W,3) or (H,W), got ",
              smooseg::detail::shape_of(picture));
}

/// The input position of each output position. The sum is kept as PIL keeps it, so that ties fall alike.
Tensor nearest_positions(int64_t size_in, int64_t size_out) {
  const Tensor positions = torch::empty({size_out}, torch::kInt64);
  auto* const values = positions.data_ptr<int64_t>();
  const double step = static_cast<double>(size_in) / static_cast<double>(size_out);
  double position = 0.5 * step;
  for (int64_t i = 0; i < size_out; ++i, position += step) {
    values[i] = std::min(static_cast<int64_t>(position), size_in - 1);
  }
  return positions;
}

Tensor crop(const Tensor& picture, int64_t top, int64_t left, int64_t height, int64_t width) {
  return picture.narrow(0, top, height).narrow(1, left, width);
}

/// Where a crop begins that leaves `rest` pixels; std::nearbyint takes halves to the even number.
int64_t half_of(int64_t rest) {
  return static_cast<int64_t>(std::nearbyint(static_cast<double>(rest) / 2));
}

}  // namespace

Tensor resize(const Tensor& picture, int64_t height, int64_t width) {
  check_picture(picture, "resize");
  TORCH_CHECK(height > 0 && width > 0, "resize: expected a height and width of at least 1, got ", height, " x ", width);
  TORCH_CHECK(height <= kMaxPixels / width, "resize: expected at most ", kMaxPixels, " pixels, got ", height, " x ",
              width);
  const auto rows = nearest_positions(picture.size(0), height).to(picture.device());
  const auto columns = nearest_positions(picture.size(1), width).to(picture.device());
  return picture.index_select(0, rows).index_select(1, columns);
}

Tensor resize_shorter(const Tensor& picture, int64_t size) {
  check_picture(picture, "resize_shorter");
  TORCH_CHECK(size > 0 && size <= kMaxPixels, "resize_shorter: expected a size of 1 to ", kMaxPixels, ", got ", size);
  const int64_t height = picture.size(0);
  const int64_t width = picture.size(1);
  return width <= height ? resize(picture, size * height / width, size) : resize(picture, size, size * width / height);
}

Tensor center_crop(const Tensor& picture, int64_t height, int64_t width) {
  check_picture(picture, "center_crop");
  TORCH_CHECK(height > 0 && width > 0 && height <= picture.size(0) && width <= picture.size(1),
              "center_crop: expected a crop of 1 x 1 to ", picture.size(0), " x ", picture.size(1),
              " pixels, the size of the picture, got ", height, " x ", width);
  return crop(picture, half_of(picture.size(0) - height), half_of(picture.size(1) - width), height, width);
}

std::array<Tensor, 5> five_crop(const Tensor& picture) {
  check_picture(picture, "five_crop");
  const int64_t height = picture.size(0) / 2;
  const int64_t width = picture.size(1) / 2;
  TORCH_CHECK(height > 0 && width > 0, "five_crop: expected a picture of at least 2 x 2 pixels, got ", picture.size(0),
              " x ", picture.size(1));
  const int64_t bottom = picture.size(0) - height;
  const int64_t right = picture.size(1) - width;
  return {crop(picture, 0, 0, height, width), crop(picture, 0, right, height, width),
          crop(picture, bottom, 0, height, width), crop(picture, bottom, right, height, width),
          center_crop(picture, height, width)};
}

Tensor normalize(const Tensor& image) {
  check_picture(image, "normalize");
  TORCH_CHECK(image.dim() == 3 && image.scalar_type() == torch::kUInt8,
              "normalize: expected an image of shape (H,W,3), uint8, got ", smooseg::detail::shape_of(image), ", ",
              image.scalar_type());
  const auto per_channel = [&](const std::array<double, 3>& values) {
    return torch::tensor({values[0], values[1], values[2]}, image.options().dtype(torch::kFloat32)).view({3, 1, 1});
  };
  const Tensor unit =
      image.permute({2, 0, 1}).to(torch::kFloat32, false, false, at::MemoryFormat::Contiguous).div_(255);
  return unit.sub_(per_channel(backbone::kImageNetMean)).div_(per_channel(backbone::kImageNetStd));
}

}  // namespace smooseg::app
