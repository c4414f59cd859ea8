#include "data/transforms.hpp"

#include <c10/util/Exception.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <utility>

#include "data/image_file.hpp"
#include "smooseg/detail/check.hpp"

namespace smooseg::app {
namespace {

using smooseg::detail::check_defined;
using smooseg::detail::shape_of;

/// Some consecutive pixels along one side of a picture.
struct Span {
  int64_t begin, size;
};

Span middle(int64_t of, int64_t size) {
  return {middle_of(of, size), size};
}

/// One of the five crops, along one side. @param last whether it is at the right or the bottom.
Span half(int64_t of, int64_t crop, bool last) {
  const int64_t size = of / 2;
  return crop == Transform::kFive - 1 ? middle(of, size) : Span{last ? of - size : 0, size};
}

/// The input positions of those output positions that are `kept` when `part` is resized. The sum is kept as PIL keeps
/// it, so that ties fall alike.
std::vector<int64_t> nearest_positions(const Span& part, int64_t size_out, const Span& kept) {
  std::vector<int64_t> positions;
  positions.reserve(static_cast<std::size_t>(kept.size));
  const double step = static_cast<double>(part.size) / static_cast<double>(size_out);
  double position = 0.5 * step;
  for (int64_t i = 0; i < kept.begin + kept.size; ++i, position += step) {
    if (i >= kept.begin) positions.push_back(part.begin + std::min(static_cast<int64_t>(position), part.size - 1));
  }
  return positions;
}

}  // namespace

Grid grid_of(const Transform& transform, int64_t height, int64_t width, int64_t most_pixels) {
  Span vertical{0, height}, horizontal{0, width};
  if (const auto crop = transform.five_crop) {
    TORCH_CHECK(*crop >= 0 && *crop < Transform::kFive, "five_crop: expected a crop of 0..4, got ", *crop);
    TORCH_CHECK(height > 1 && width > 1, "five_crop: expected a picture of at least 2 x 2 pixels, got ", height, " x ",
                width);
    vertical = half(height, *crop, *crop / 2 == 1);
    horizontal = half(width, *crop, *crop % 2 == 1);
  }
  const int64_t side = transform.side, shorter = std::min(vertical.size, horizontal.size);
  TORCH_CHECK(side >= 0 && side <= kMaxPixels, "resize: expected a side of 0 to ", kMaxPixels, ", got ", side);
  const int64_t size = side > 0 ? side : shorter;
  const int64_t rows = size * vertical.size / shorter, columns = size * horizontal.size / shorter;
  TORCH_CHECK(rows <= most_pixels / columns, "resize: expected at most ", most_pixels, " pixels, got ", rows, " x ",
              columns);
  const auto kept = [&](int64_t all) { return transform.square ? middle(all, size) : Span{0, all}; };
  return {nearest_positions(vertical, rows, kept(rows)), nearest_positions(horizontal, columns, kept(columns))};
}

namespace {

/// Fills transformed pictures while the rows of the original come by.
template <class Value>
class Sampler {
 public:
  /// @param target (h,w[,3]), contiguous: what is filled.
  Sampler(Grid grid, const Tensor& target) : grid_(std::move(grid)), target_(target.data_ptr<Value>()) {}

  /// The next row that is wanted; none if there is none.
  std::optional<int64_t> next_row() const {
    return next_ < grid_.rows.size() ? std::optional(grid_.rows[next_]) : std::nullopt;
  }

  /// Takes what is wanted of row y, whose pixels are `values`.
  void take(int64_t y, const Value* values) {
    Value* target = target_;  // a member might be what is written to, as far as the compiler knows
    for (; next_row() == y; ++next_) {
      for (const int64_t x : grid_.columns) {
        for (int64_t c = 0; c < kChannels; ++c) *target++ = values[kChannels * x + c];
      }
    }
    target_ = target;
  }

 private:
  static constexpr int64_t kChannels = Rows<Value>::kChannels;

  Grid grid_;
  Value* target_;
  std::size_t next_ = 0;
};

/// The pixels of grids of one picture, in one pass through it; all its rows, or those that are wanted.
template <class Value>
void sample(Rows<Value>& source, std::vector<Sampler<Value>>& samplers, bool all_rows) {
  std::vector<Value> row(static_cast<std::size_t>(source.width() * Rows<Value>::kChannels));
  for (int64_t y = 0; y < source.height(); ++y) {
    if (!all_rows) {
      std::optional<int64_t> next;
      for (const auto& sampler : samplers) {
        const auto wanted = sampler.next_row();
        if (wanted && (!next || *wanted < *next)) next = wanted;
      }
      if (!next) break;
      y = *next;
    }
    source.read(y, row.data());
    for (auto& sampler : samplers) sampler.take(y, row.data());
  }
  source.finish();
}

Tensor empty_for(const Grid& grid, std::vector<int64_t> more, torch::ScalarType dtype) {
  std::vector<int64_t> sizes{static_cast<int64_t>(grid.rows.size()), static_cast<int64_t>(grid.columns.size())};
  sizes.insert(sizes.end(), more.begin(), more.end());
  return torch::empty(sizes, dtype);
}

}  // namespace

int64_t middle_of(int64_t of, int64_t size) {
  return static_cast<int64_t>(std::nearbyint(static_cast<double>(of - size) / 2));
}

Tensor transformed(const Tensor& picture, const Transform& transform) {
  check_defined(picture, "transformed", "picture");
  const bool right_shape = picture.dim() == 2 || (picture.dim() == 3 && picture.size(2) == 3);
  TORCH_CHECK(right_shape && picture.numel() > 0, "transformed: expected a picture of shape (H,W,3) or (H,W), got ",
              shape_of(picture));
  const Grid grid = grid_of(transform, picture.size(0), picture.size(1));
  const auto indices = [&](const std::vector<int64_t>& positions) {
    return torch::tensor(positions).to(picture.device());
  };
  return picture.index_select(0, indices(grid.rows)).index_select(1, indices(grid.columns));
}

TransformedImage read_transformed(const std::filesystem::path& path, const std::vector<Transform>& transforms) {
  return read_transformed(*open_picture(path), path, transforms);
}

TransformedImage read_transformed(PictureRows& picture, const std::filesystem::path& path,
                                  const std::vector<Transform>& transforms) {
  TransformedImage image{picture.height(), picture.width(), {}};
  try {
    std::vector<Sampler<uint8_t>> samplers;
    for (const Transform& transform : transforms) {
      Grid grid = grid_of(transform, image.height, image.width);
      image.pixels.push_back(empty_for(grid, {PictureRows::kChannels}, torch::kUInt8));
      samplers.emplace_back(std::move(grid), image.pixels.back());
    }
    sample(picture, samplers, /*all_rows=*/false);
  } catch (const c10::Error& e) {
    throw std::runtime_error(path.string() + ": " + e.what_without_backtrace());
  }
  return image;
}

Tensor read_transformed(LabelRows& label, const Transform& transform) {
  Grid grid = grid_of(transform, label.height(), label.width());
  const Tensor values = empty_for(grid, {}, torch::kInt64);
  std::vector<Sampler<int64_t>> samplers;
  samplers.emplace_back(std::move(grid), values);
  sample(label, samplers, /*all_rows=*/true);
  return values;
}

Tensor normalize(const Tensor& pixels, const Normalization& with, Tensor target) {
  constexpr std::size_t kValues = 256;
  check_defined(pixels, "normalize", "pixels");
  TORCH_CHECK(pixels.dim() == 3 && pixels.size(2) == 3 && pixels.scalar_type() == torch::kUInt8 && pixels.is_cpu(),
              "normalize: expected pixels of shape (H,W,3), uint8, on the CPU, got ", shape_of(pixels), ", ",
              pixels.scalar_type(), ", on ", pixels.device());
  const std::vector<int64_t> sizes{3, pixels.size(0), pixels.size(1)};
  if (!target.defined()) target = torch::empty(sizes, torch::kFloat32);
  TORCH_CHECK(target.sizes() == c10::IntArrayRef(sizes) && target.scalar_type() == torch::kFloat32 &&
                  target.is_contiguous() && target.is_cpu(),
              "normalize: expected a contiguous target of shape ", c10::IntArrayRef(sizes), ", float32, got ",
              shape_of(target), ", ", target.scalar_type());
  const Tensor bytes = pixels.contiguous();
  const auto* const values = bytes.data_ptr<uint8_t>();
  auto* const out = target.data_ptr<float>();
  const auto count = static_cast<std::size_t>(bytes.numel() / 3);
  for (std::size_t c = 0; c < 3; ++c) {
    std::array<float, kValues> normalized;  // what becomes of each value
    for (std::size_t v = 0; v < kValues; ++v) {
      const float unit = static_cast<float>(v) / static_cast<float>(kValues - 1);
      normalized[v] = (unit - static_cast<float>(with.mean[c])) / static_cast<float>(with.std[c]);
    }
    for (std::size_t p = 0; p < count; ++p) out[c * count + p] = normalized[values[3 * p + c]];
  }
  return target;
}

}  // namespace smooseg::app
