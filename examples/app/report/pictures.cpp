#include "report/pictures.hpp"

#include <torch/types.h>

#include <algorithm>
#include <cstdint>

#include "smooseg/detail/check.hpp"

namespace smooseg::app {
namespace {

using smooseg::detail::shape_of;

constexpr int64_t kSeparator = 4;

void check_indices(const Tensor& indices, const char* function) {
  smooseg::detail::check_defined(indices, function, "indices");
  TORCH_CHECK(indices.dim() == 2 && at::isIntegralType(indices.scalar_type(), false) && indices.is_cpu(), function,
              ": expected indices of shape (H,W) and an integral dtype on the CPU, got ", shape_of(indices), ", ",
              indices.scalar_type(), ", on ", indices.device());
}

void check_image(const Tensor& image, const char* function) {
  smooseg::detail::check_defined(image, function, "image");
  TORCH_CHECK(image.dim() == 3 && image.size(2) == 3 && image.scalar_type() == torch::kUInt8 && image.is_cpu(),
              function, ": expected an image of shape (H,W,3), uint8, on the CPU, got ", shape_of(image), ", ",
              image.scalar_type(), ", on ", image.device());
}

/// A picture (H,W,3), uint8, of which `rows_of(begin, end)` gives some rows at a time: what they are made of takes many
/// times the picture's memory.
template <class F>
Tensor in_strips(int64_t height, int64_t width, const F& rows_of) {
  constexpr int64_t kPixels = int64_t{1} << 21;
  const int64_t rows = std::max<int64_t>(1, kPixels / std::max<int64_t>(1, width));
  const Tensor picture = torch::empty({height, width, 3}, torch::kUInt8);
  for (int64_t begin = 0; begin < height; begin += rows) {
    const int64_t end = std::min(begin + rows, height);
    picture.slice(0, begin, end).copy_(rows_of(begin, end));
  }
  return picture;
}

/// True where the pixel above, below, left or right is of another class.
Tensor borders_of(const Tensor& indices) {
  const Tensor borders = torch::zeros_like(indices, torch::kBool);
  for (const int64_t dim : {0, 1}) {
    const int64_t pairs = indices.size(dim) - 1;
    if (pairs < 1) continue;
    const Tensor differs = indices.narrow(dim, 0, pairs).ne(indices.narrow(dim, 1, pairs));
    borders.narrow(dim, 0, pairs).logical_or_(differs);
    borders.narrow(dim, 1, pairs).logical_or_(differs);
  }
  return borders;
}

}  // namespace

Tensor colorize(const Tensor& indices, const std::vector<Color>& colors, const Color& ignored) {
  check_indices(indices, "colorize");
  const auto count = static_cast<int64_t>(colors.size());
  if (indices.numel() > 0) {
    const auto highest = indices.max().item<int64_t>();
    TORCH_CHECK(highest < count, "colorize: expected indices below the number of colours, ", count, ", got ", highest);
  }
  // Row 0 of the table is for ignored pixels, row k + 1 for class k.
  const Tensor table = torch::empty({count + 1, 3}, torch::kUInt8);
  auto* target = std::copy(ignored.begin(), ignored.end(), table.data_ptr<uint8_t>());
  for (const Color& color : colors) target = std::copy(color.begin(), color.end(), target);
  return in_strips(indices.size(0), indices.size(1), [&](int64_t begin, int64_t end) {
    const Tensor rows = indices.slice(0, begin, end).to(torch::kInt64).clamp_min(-1).add(1).reshape(-1);
    return table.index_select(0, rows).view({end - begin, indices.size(1), 3});
  });
}

Tensor mapped(const Tensor& labels, const Tensor& table) {
  const Tensor result = torch::empty_like(labels);
  const auto* const from = labels.data_ptr<uint8_t>();
  std::transform(from, from + labels.numel(), result.data_ptr<uint8_t>(),
                 [entries = table.data_ptr<uint8_t>()](uint8_t label) { return entries[label]; });
  return result;
}

Tensor overlay(const Tensor& image, const Tensor& indices, const std::vector<Color>& colors, double alpha) {
  check_image(image, "overlay");
  check_indices(indices, "overlay");
  TORCH_CHECK(image.size(0) == indices.size(0) && image.size(1) == indices.size(1),
              "overlay: expected indices of the image's size ", image.size(0), " x ", image.size(1), ", got ",
              indices.size(0), " x ", indices.size(1));
  TORCH_CHECK(alpha >= 0 && alpha <= 1, "overlay: expected alpha within 0..1, got ", alpha);
  return in_strips(indices.size(0), indices.size(1), [&](int64_t begin, int64_t end) {
    // A row more on either side, so that the borders between strips are seen.
    const int64_t above = std::min<int64_t>(begin, 1);
    const Tensor around = indices.slice(0, begin - above, std::min(end + 1, indices.size(0)));
    const Tensor borders = borders_of(around).slice(0, above, above + end - begin), rows = indices.slice(0, begin, end);
    const Tensor weight = borders.to(torch::kFloat32).clamp_min(alpha).mul(rows.ge(0)).unsqueeze(2);
    const Tensor tint = colorize(rows, colors).to(torch::kFloat32);
    return torch::lerp(image.slice(0, begin, end).to(torch::kFloat32), tint, weight).round().to(torch::kUInt8);
  });
}

Tensor panel(const std::vector<Tensor>& pictures) {
  TORCH_CHECK(!pictures.empty(), "panel: expected at least one picture, got none");
  std::vector<Tensor> parts;
  for (const Tensor& picture : pictures) {
    check_image(picture, "panel");
    const int64_t height = pictures.front().size(0);
    TORCH_CHECK(picture.size(0) == height, "panel: expected pictures of one height, ", height, ", got ",
                picture.size(0));
    if (!parts.empty()) parts.push_back(torch::full({height, kSeparator, 3}, 255, torch::kUInt8));
    parts.push_back(picture);
  }
  return torch::cat(parts, 1);
}

}  // namespace smooseg::app
