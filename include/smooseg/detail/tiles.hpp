#pragma once

// Cutting what is too large into overlapping pieces.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace smooseg::detail {

/// A stretch of an axis cut into tiles: where a tile starts, and which of its cells are kept.
struct TileSpan {
  std::int64_t start, keep_begin, keep_end;  // keep_* count from the axis' origin
};

/// Tiles of `size` cells over `length` cells, neighbours sharing at least `overlap`; each overlap is cut in the middle.
inline std::vector<TileSpan> tile_spans(std::int64_t length, std::int64_t size, std::int64_t overlap) {
  if (length <= size) return {{0, 0, length}};
  std::vector<TileSpan> spans;
  for (std::int64_t start = 0;; start += size - overlap) {
    start = std::min(start, length - size);
    const std::int64_t kept_until = spans.empty() ? 0 : (spans.back().start + size + start) / 2;
    if (!spans.empty()) spans.back().keep_end = kept_until;
    spans.push_back({start, kept_until, length});
    if (start == length - size) return spans;
  }
}

/// How much each of these tiles counts at its cells where tiles are blended: its weight falls linearly towards an edge
/// that has neighbours beyond it, and the weights of all tiles at a cell sum to 1.
/// @return for each tile of `tile_spans` one weight a cell.
inline std::vector<std::vector<double>> tile_weights(std::int64_t length, std::int64_t size, std::int64_t overlap) {
  const std::vector<TileSpan> spans = tile_spans(length, size, overlap);
  const std::int64_t cells = std::min(size, length);
  std::vector<double> sums(static_cast<std::size_t>(length), 0.0);
  std::vector<std::vector<double>> weights;
  for (const TileSpan& span : spans) {
    std::vector<double>& own = weights.emplace_back();
    for (std::int64_t i = 0; i < cells; ++i) {
      const std::int64_t from_begin = span.start > 0 ? i + 1 : cells;
      const std::int64_t from_end = span.start + cells < length ? cells - i : cells;
      own.push_back(static_cast<double>(std::min(from_begin, from_end)));
      sums[static_cast<std::size_t>(span.start + i)] += own.back();
    }
  }
  for (std::size_t t = 0; t < spans.size(); ++t) {
    for (std::size_t i = 0; i < weights[t].size(); ++i) {
      weights[t][i] /= sums[static_cast<std::size_t>(spans[t].start) + i];
    }
  }
  return weights;
}

}  // namespace smooseg::detail
