#pragma once

// Parts of pictures and label maps that need not fit into memory.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "data/image_file.hpp"
#include "data/transforms.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// Pictures of more pixels are worked on in windows, rather than as a whole, unless a command is told otherwise.
inline constexpr int64_t kWindowPixels = int64_t{1} << 25;

/// Windows of a picture or label map after a transform, read from its file from top to bottom. Memory is needed for the
/// rows of one window.
template <class Value>
class Windows {
 public:
  /// @param source of which no row was read yet.
  /// @throws c10::Error as `transformed`, whatever the number of pixels.
  Windows(std::unique_ptr<Rows<Value>> source, const Transform& transform);

  /// In pixels, after the transform.
  int64_t height() const { return static_cast<int64_t>(grid_.rows.size()); }
  int64_t width() const { return static_cast<int64_t>(grid_.columns.size()); }

  /// @param top not less than in the call before.
  /// @return (height,width,3) uint8 of a picture, (height,width) int64 of a label map.
  /// @throws std::runtime_error for damaged files.
  Tensor read(int64_t top, int64_t left, int64_t height, int64_t width);

  /// After the last window: what is wrong with the file, as `Rows::finish`.
  void finish() { source_->finish(); }

 private:
  std::unique_ptr<Rows<Value>> source_;
  Grid grid_;
  std::vector<Value> row_;  // of the file, that of number `decoded_`
  int64_t decoded_ = -1;
  Tensor held_;  // rows from `first_` to `next_`, all columns
  int64_t first_ = 0, next_ = 0;
};

using PictureWindows = Windows<uint8_t>;
using LabelWindows = Windows<int64_t>;

}  // namespace smooseg::app
