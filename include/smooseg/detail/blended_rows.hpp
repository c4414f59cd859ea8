#pragma once

// Maps made tile by tile, blended where tiles overlap.

#include <ATen/Functions.h>
#include <torch/types.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "smooseg/detail/host_copy.hpp"
#include "smooseg/detail/tiles.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// Rows of a map (B,C,height,width) that is made tile by tile, from the top, when its rows are asked for. Where tiles
/// overlap, values go over linearly from one to the next (`tile_weights`). Rows that were passed are let go.
class BlendedRows {
 public:
  /// Makes the tile (B,C,rows,columns) that begins at a row and a column.
  using Tile = std::function<Tensor(int64_t row, int64_t column, int64_t rows, int64_t columns)>;

  /// @param size, overlap of the tiles, as for `tile_spans`.
  BlendedRows(int64_t height, int64_t width, int64_t size, int64_t overlap, Tile tile)
      : height_(height),
        width_(width),
        tile_height_(std::min(size, height)),
        tile_width_(std::min(size, width)),
        tile_(std::move(tile)),
        rows_(tile_spans(height, size, overlap)),
        columns_(tile_spans(width, size, overlap)),
        row_weights_(tile_weights(height, size, overlap)),
        column_weights_(tile_weights(width, size, overlap)) {}

  int64_t height() const { return height_; }

  /// @param begin not less than that of the call before. @param end more than `begin`. @return (B,C,end-begin,width).
  Tensor read(int64_t begin, int64_t end) {
    std::size_t until = next_;
    while (finished_by(until) < end) ++until;
    const int64_t extent = until > next_ ? rows_[until - 1].start + tile_height_ : 0;
    for (; next_ < until; ++next_) {
      for (std::size_t c = 0; c < columns_.size(); ++c) {
        const Tensor tile = tile_(rows_[next_].start, columns_[c].start, tile_height_, tile_width_);
        hold(begin, extent, tile);
        add(tile, next_, c);
      }
    }
    return held_.narrow(2, begin - first_, end - begin);
  }

 private:
  /// Rows before this one do not change any more once so many rows of tiles have been added.
  int64_t finished_by(std::size_t count) const { return count < rows_.size() ? rows_[count].start : height_; }

  /// Makes room for the rows from `begin` to `extent`, and keeps what is known of them.
  void hold(int64_t begin, int64_t extent, const Tensor& like) {
    const int64_t held_end = held_.defined() ? first_ + held_.size(2) : 0;
    if (held_.defined() && held_end >= extent) return;
    const Tensor room = at::zeros({like.size(0), like.size(1), extent - begin, width_}, like.options());
    if (held_end > begin) {
      room.narrow(2, 0, held_end - begin).copy_(held_.narrow(2, begin - first_, held_end - begin));
    }
    held_ = room;
    first_ = begin;
  }

  void add(const Tensor& tile, std::size_t r, std::size_t c) {
    const auto weights = [&](const std::vector<double>& values) {
      return numbers_on(tile.device(), values, tile.scalar_type());
    };
    const int64_t start = rows_[r].start, begin = std::max(start, first_), count = start + tile_height_ - begin;
    if (count <= 0) return;
    const Tensor weighted = tile * weights(row_weights_[r]).view({-1, 1}) * weights(column_weights_[c]);
    held_.narrow(2, begin - first_, count)
        .narrow(3, columns_[c].start, tile_width_)
        .add_(weighted.narrow(2, begin - start, count));
  }

  int64_t height_, width_, tile_height_, tile_width_;
  Tile tile_;
  std::vector<TileSpan> rows_, columns_;
  std::vector<std::vector<double>> row_weights_, column_weights_;
  std::size_t next_ = 0;  // the row of tiles that comes next
  Tensor held_;           // rows of the map from row `first_` on
  int64_t first_ = 0;
};

}  // namespace smooseg::detail
