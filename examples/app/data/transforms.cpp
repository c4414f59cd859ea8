#include "data/transforms.hpp"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <vector>

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
std::vector<int64_t> nearest_positions(int64_t size_in, int64_t size_out) {
  std::vector<int64_t> positions;
  positions.reserve(static_cast<std::size_t>(size_out));
  const double step = static_cast<double>(size_in) / static_cast<double>(size_out);
  double position = 0.5 * step;
  for (int64_t i = 0; i < size_out; ++i, position += step) {
    positions.push_back(std::min(static_cast<int64_t>(position), size_in - 1));
  }
  return positions;
}

struct Size {
  int64_t height, width;
};

void check_resized(const Size& size) {
  TORCH_CHECK(size.height > 0 && size.width > 0, "resize: expected a height and width of at least 1, got ", size.height,
              " x ", size.width);
  TORCH_CHECK(size.height <= kMaxPixels / size.width, "resize: expected at most ", kMaxPixels, " pixels, got ",
              size.height, " x ", size.width);
}

/// The size of a picture whose shorter side is resized to `side`.
Size resized(const Size& picture, int64_t side) {
  TORCH_CHECK(side > 0 && side <= kMaxPixels, "resize_shorter: expected a size of 1 to ", kMaxPixels, ", got ", side);
  return picture.width <= picture.height ? Size{side * picture.height / picture.width, side}
                                         : Size{side, side * picture.width / picture.height};
}

Tensor crop(const Tensor& picture, int64_t top, int64_t left, int64_t height, int64_t width) {
  return picture.narrow(0, top, height).narrow(1, left, width);
}

/// Where a crop begins that leaves `rest` pixels; std::nearbyint takes halves to the even number.
int64_t half_of(int64_t rest) {
  return static_cast<int64_t>(std::nearbyint(static_cast<double>(rest) / 2));
}

struct Rectangle {
  int64_t top, left;
  Size size;
};

Rectangle center(const Size& picture, const Size& size) {
  return {half_of(picture.height - size.height), half_of(picture.width - size.width), size};
}

/// Where the five crops lie.
std::array<Rectangle, 5> five_rectangles(const Size& picture) {
  const Size half{picture.height / 2, picture.width / 2};
  TORCH_CHECK(half.height > 0 && half.width > 0, "five_crop: expected a picture of at least 2 x 2 pixels, got ",
              picture.height, " x ", picture.width);
  const int64_t bottom = picture.height - half.height, right = picture.width - half.width;
  return {Rectangle{0, 0, half}, {0, right, half}, {bottom, 0, half}, {bottom, right, half}, center(picture, half)};
}

/// The grid of a part of a picture.
Grid center_grid(const Rectangle& part, int64_t side) {
  const Size size = resized(part.size, side);
  check_resized(size);
  const Rectangle kept = center(size, {side, side});
  const auto positions = [&](int64_t offset, int64_t size_in, int64_t size_out, int64_t first) {
    std::vector<int64_t> all = nearest_positions(size_in, size_out), wanted;
    for (int64_t i = first; i < first + side; ++i) wanted.push_back(offset + all[static_cast<std::size_t>(i)]);
    return wanted;
  };
  return {positions(part.top, part.size.height, size.height, kept.top),
          positions(part.left, part.size.width, size.width, kept.left)};
}

}  // namespace

Tensor resize(const Tensor& picture, int64_t height, int64_t width) {
  check_picture(picture, "resize");
  check_resized({height, width});
  const auto rows = torch::tensor(nearest_positions(picture.size(0), height)).to(picture.device());
  const auto columns = torch::tensor(nearest_positions(picture.size(1), width)).to(picture.device());
  return picture.index_select(0, rows).index_select(1, columns);
}

Tensor resize_shorter(const Tensor& picture, int64_t size) {
  check_picture(picture, "resize_shorter");
  const Size wanted = resized({picture.size(0), picture.size(1)}, size);
  return resize(picture, wanted.height, wanted.width);
}

Tensor center_crop(const Tensor& picture, int64_t height, int64_t width) {
  check_picture(picture, "center_crop");
  TORCH_CHECK(height > 0 && width > 0 && height <= picture.size(0) && width <= picture.size(1),
              "center_crop: expected a crop of 1 x 1 to ", picture.size(0), " x ", picture.size(1),
              " pixels, the size of the picture, got ", height, " x ", width);
  const auto [top, left, size] = center({picture.size(0), picture.size(1)}, {height, width});
  return crop(picture, top, left, size.height, size.width);
}

std::array<Tensor, 5> five_crop(const Tensor& picture) {
  check_picture(picture, "five_crop");
  std::array<Tensor, 5> crops;
  std::size_t k = 0;
  for (const auto& [top, left, size] : five_rectangles({picture.size(0), picture.size(1)})) {
    crops[k++] = crop(picture, top, left, size.height, size.width);
  }
  return crops;
}

Grid center_grid(int64_t height, int64_t width, int64_t side) {
  return center_grid({0, 0, {height, width}}, side);
}

std::array<Grid, 5> five_grids(int64_t height, int64_t width, int64_t side) {
  std::array<Grid, 5> grids;
  std::size_t k = 0;
  for (const Rectangle& part : five_rectangles({height, width})) grids[k++] = center_grid(part, side);
  return grids;
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

void normalize(const Raster& image, float* target) {
  TORCH_CHECK(image.channels == 3, "normalize: expected an image of 3 channels, got ", image.channels);
  // What becomes of each value in each channel, (3,1,256), by the function above.
  static const Tensor table =
      normalize(torch::arange(256).to(torch::kUInt8).view({1, 256, 1}).expand({1, 256, 3})).contiguous();
  const float* const normalized = table.data_ptr<float>();
  const auto pixels = static_cast<std::size_t>(image.height * image.width);
  const uint8_t* const values = image.values.data();
  for (std::size_t c = 0; c < 3; ++c) {
    for (std::size_t p = 0; p < pixels; ++p) target[c * pixels + p] = normalized[256 * c + values[3 * p + c]];
  }
}

}  // namespace smooseg::app
