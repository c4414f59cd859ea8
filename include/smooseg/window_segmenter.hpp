#pragma once

// Pictures that do not fit into memory, segmented window by window.

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <torch/types.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "smooseg/detail/blended_rows.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg {

/// Reads a window of a picture: (B,3,height,width), as `Segmenter::code` takes pictures.
using WindowSource = std::function<Tensor(int64_t top, int64_t left, int64_t height, int64_t width)>;

/// Labels of a picture of which only windows are read and only rows are held: a segmenter's labels of the whole picture
/// in memory that does not grow with its height.
///
///     WindowSegmenter picture(*segmenter, height, width, [&](auto top, auto left, auto h, auto w) { return ...; });
///     for (int64_t y = 0; y < height; y += 100) write(picture.labels(y, std::min(y + 100, height)));
///
/// Windows are the segmenter's tiles, whose codes are blended where they overlap. A backbone that otherwise takes whole
/// pictures is told where a window lies and, where it says how far it looks (`Backbone::reach`), sees so much around it
/// that its features are those of the whole picture.
class WindowSegmenter {
 public:
  /// @param segmenter must outlive this. @param height, width of the picture in pixels, at least a patch.
  /// @param window is asked for windows row by row from the top; no window begins above one that was asked for before.
  /// @param out_height, out_width of the labels; by default those of the picture.
  /// @throws c10::Error for smaller pictures, and for a size of the labels below 1 x 1.
  WindowSegmenter(SegmenterImpl& segmenter, int64_t height, int64_t width, WindowSource window, int64_t out_height,
                  int64_t out_width)
      : segmenter_(segmenter),
        patch_(segmenter_.backbone->patch_size()),
        height_(height),
        width_(width),
        out_height_(out_height),
        out_width_(out_width),
        window_(std::move(window)),
        codes_(rows_of_patches(height), rows_of_patches(width), segmenter_.tile_cells(), segmenter_.overlap_cells(),
               [this](int64_t row, int64_t column, int64_t rows, int64_t columns) {
                 return tile_code(row, column, rows, columns);
               }) {
    TORCH_CHECK(height >= patch_ && width >= patch_,
                "smooseg::WindowSegmenter: expected a picture of at least a patch of ", patch_, " x ", patch_,
                " pixels, got ", height, " x ", width);
    TORCH_CHECK(out_height >= 1 && out_width >= 1, "smooseg::WindowSegmenter: expected labels of at least 1 x 1, got ",
                out_height, " x ", out_width);
  }
  WindowSegmenter(SegmenterImpl& segmenter, int64_t height, int64_t width, WindowSource window)
      : WindowSegmenter(segmenter, height, width, std::move(window), height, width) {}
  WindowSegmenter(const WindowSegmenter&) = delete;
  WindowSegmenter& operator=(const WindowSegmenter&) = delete;

  /// The most similar class of the pixels of some rows, as `Segmenter::labels`.
  /// @param begin, end rows of the labels, 0 <= begin < end <= out_height; `begin` not less than in an earlier call of
  ///   this or of `logits`.
  /// @return (B,end-begin,out_width) int64.
  Tensor labels(int64_t begin, int64_t end) {
    check_part(begin, end, 0, out_width_, "smooseg::WindowSegmenter::labels");
    const torch::NoGradGuard no_grad;
    const int64_t classes = segmenter_.predictor->options.num_classes();
    std::vector<Tensor> strips;
    detail::for_each_strip(1, classes, begin, end, out_width_, [&](int64_t first, int64_t last) {
      const detail::AxisSamples y = samples_of_rows(first, last), x = samples_of_columns(0, out_width_);
      const Tensor dots = segmenter_.similarities(codes_.read(y.begin, y.end));
      strips.push_back(x(y.interpolate(dots, 2), 3).argmax(1));
    });
    return strips.size() == 1 ? strips.front() : at::cat(strips, 1);
  }

  /// Similarities of the upsampled code to the teacher's prototypes in a part of the picture, as `Segmenter::logits`.
  /// @param begin, end rows as for `labels`. @param left, right columns, 0 <= left < right <= out_width.
  /// @return (B,K,end-begin,right-left).
  Tensor logits(int64_t begin, int64_t end, int64_t left, int64_t right) {
    check_part(begin, end, left, right, "smooseg::WindowSegmenter::logits");
    const torch::NoGradGuard no_grad;
    const detail::AxisSamples y = samples_of_rows(begin, end), x = samples_of_columns(left, right);
    const Tensor code = codes_.read(y.begin, y.end);
    Tensor result;
    detail::for_each_strip(code.size(0), code.size(1), begin, end, right - left, [&](int64_t first, int64_t last) {
      const detail::AxisSamples rows = samples_of_rows(first, last);
      const Tensor strip = x(rows.interpolate(code.slice(2, rows.begin - y.begin, rows.end - y.begin), 2), 3);
      const Tensor found = functional::prototype_logits(segmenter_.predictor->teacher, strip);
      if (!result.defined()) {
        result = at::empty({found.size(0), found.size(1), end - begin, right - left}, found.options());
      }
      result.slice(2, first - begin, last - begin).copy_(found);
    });
    return result;
  }

 private:
  int64_t rows_of_patches(int64_t pixels) const { return std::max<int64_t>(1, (pixels + patch_ - 1) / patch_); }

  double cells(int64_t pixels) const { return static_cast<double>(pixels) / static_cast<double>(patch_); }

  detail::AxisSamples samples_of_rows(int64_t begin, int64_t end) const {
    return {out_height_, begin, end, cells(height_), rows_of_patches(height_)};
  }
  detail::AxisSamples samples_of_columns(int64_t left, int64_t right) const {
    return {out_width_, left, right, cells(width_), rows_of_patches(width_)};
  }

  void check_part(int64_t begin, int64_t end, int64_t left, int64_t right, const char* function) {
    TORCH_CHECK(0 <= begin && begin < end && end <= out_height_, function, ": expected rows within 0..", out_height_,
                ", got ", begin, " to ", end);
    TORCH_CHECK(0 <= left && left < right && right <= out_width_, function, ": expected columns within 0..", out_width_,
                ", got ", left, " to ", right);
    TORCH_CHECK(begin >= begun_, function, ": expected rows not above those of an earlier call, which begin at ",
                begun_, ", got ", begin);
    begun_ = begin;
  }

  /// The code of a tile, in patches.
  Tensor tile_code(int64_t row, int64_t column, int64_t rows, int64_t columns) {
    /// What is read along an axis for some of its patches.
    struct Span {
      int64_t begin, read, padded;
    };
    const auto span = [&](int64_t first, int64_t count, int64_t pixels) {
      const int64_t reach = segmenter_.backbone->reach(), all = rows_of_patches(pixels) * patch_;
      const int64_t begin = std::max<int64_t>(0, first * patch_ - reach);
      const int64_t end = std::min(all, (first + count) * patch_ + reach);
      return Span{begin, std::min(end, pixels) - begin, end - begin};
    };
    const Span y = span(row, rows, height_), x = span(column, columns, width_);
    Tensor pixels = window_(y.begin, x.begin, y.read, x.read);
    detail::check_map(pixels, "smooseg::WindowSegmenter", "a window", "(B,3,H,W)", 4);
    TORCH_CHECK(pixels.size(2) == y.read && pixels.size(3) == x.read,
                "smooseg::WindowSegmenter: expected the window that was asked for, ", y.read, " x ", x.read,
                " pixels, got ", detail::shape_of(pixels));
    if (y.padded > y.read || x.padded > x.read) {
      pixels = at::replication_pad2d(pixels, {0, x.padded - x.read, 0, y.padded - y.read});
    }
    const Tensor code = segmenter_.window_code(
        pixels.contiguous(), {y.begin, x.begin, rows_of_patches(height_) * patch_, rows_of_patches(width_) * patch_});
    return code.narrow(2, row - y.begin / patch_, rows).narrow(3, column - x.begin / patch_, columns);
  }

  SegmenterImpl& segmenter_;
  int64_t patch_, height_, width_, out_height_, out_width_;
  WindowSource window_;
  detail::BlendedRows codes_;
  int64_t begun_ = 0;
};

}  // namespace smooseg
