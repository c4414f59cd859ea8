#pragma once

// Cutting what is too large into overlapping pieces.

#include <algorithm>
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

}  // namespace smooseg::detail
