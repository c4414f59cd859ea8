#pragma once

// A Gaussian over the positions of a picture's pixels, filtered while a loop goes through them in scan order. The
// lattice of positions is a plane: its vertices lie in rows, which the rows of pixels touch one after another, so that
// only a few rows' vertices exist at a time, in a buffer that stays in cache.

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "smooseg/crf/permutohedral.hpp"
#include "smooseg/detail/kernels/aligned_buffer.hpp"
#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::crf::detail {

/// The size of a picture, in pixels.
struct Size {
  std::size_t height, width;
};

/// The vertices of `Permutohedral<2>` for the positions of a picture's pixels, as places of a matrix.
///
/// A vertex of coordinates (k0, k1, k2) stands in row -k2, from the first row on, and in column (k1 - k2) / 3, from
/// where the row can begin on: half a column further with each row.
class PositionLattice {
 public:
  static constexpr int kCorners = 3;
  static constexpr std::size_t kBlock = Simplices<2, float>::kPoints;

  /// Whether each place amid the picture is a vertex, next to which a pixel lies. Vertices are sxy apart, the pixels
  /// next to one lie in a hexagon around it of inner radius sqrt(3/4) sxy, and pixels leave gaps of radius sqrt(1/2).
  static bool suits(double sxy) { return sxy > 0.82; }

  /// @param sxy standard deviation in pixels, which `suits`.
  PositionLattice(float sxy, Size size, Isa isa) : points_(size.height * size.width), touched_(size.height) {
    const float scale[] = {Permutohedral<2>::feature_scale(1), Permutohedral<2>::feature_scale(2)};
    const double right = static_cast<double>(size.width - 1) / static_cast<double>(sxy * 3 / scale[0]);
    const double bottom = static_cast<double>(size.height - 1) / static_cast<double>(sxy / (2 * scale[1]));
    before_ = static_cast<std::ptrdiff_t>(std::ceil(right)) + kMargin;
    columns_ = static_cast<std::size_t>(before_) + kMargin + 3;
    const double places = (std::ceil(bottom) + 2 * kMargin) * static_cast<double>(columns_);
    if (places > std::numeric_limits<std::uint32_t>::max()) {
      throw std::length_error("PositionLattice: more than 2^32 vertices");
    }
    rows_ = static_cast<std::size_t>(std::ceil(bottom)) + 2 * kMargin;
    find_corners(sxy, size, scale, isa);
    find_gaps();
  }

  std::size_t points() const { return points_; }
  std::size_t rows() const { return rows_; }
  std::size_t columns() const { return columns_; }

  /// The vertices around a point, as row * columns + column, and its barycentric coordinates: kCorners for each point.
  const Corner<float>* corners() const { return corners_.data(); }

  /// The first and the last of the lattice's rows that a row of pixels touches.
  struct Touched {
    std::size_t first = std::numeric_limits<std::size_t>::max(), last = 0;
  };
  const std::vector<Touched>& touched() const { return touched_; }

  /// Where a row's vertices are: columns [begin, end), but for holes.
  struct Extent {
    std::size_t begin = 0, end = 0, first_hole = 0;
  };
  const Extent& extent(std::size_t row) const { return extents_[row]; }

  /// Calls f(column) for each of a row's holes.
  template <class F>
  void for_each_hole(std::size_t row, const F& f) const {
    for (std::size_t i = extents_[row].first_hole; i < extents_[row + 1].first_hole; ++i) f(holes_[i]);
  }

  /// How far the neighbours along an axis are in rows, those on one side; those on the other are as far up.
  static constexpr std::ptrdiff_t kRowStep[] = {-1, -1, 2};

  /// By how many columns the place of the neighbour along an axis differs, sign * kRowStep[axis] rows further down.
  static std::ptrdiff_t column_step(int axis, std::size_t row, std::ptrdiff_t sign) {
    constexpr std::ptrdiff_t kColumnStep[] = {0, -1, 1};
    const auto from = static_cast<std::ptrdiff_t>(row);
    return sign * kColumnStep[axis] + half(from) - half(from + sign * kRowStep[axis]);
  }

  /// Names vertices anew, by their place where rows take turns in `ring` rows.
  void fold(std::size_t ring) {
    std::vector<std::uint32_t> shift(rows_);
    for (std::size_t row = 0; row < rows_; ++row)
      shift[row] = static_cast<std::uint32_t>((row - row % ring) * columns_);
    const double inverse = 1 / static_cast<double>(columns_);  // exact enough half a column from the row's ends
    for (std::size_t i = 0; i < points_ * kCorners; ++i) {
      const auto row = static_cast<std::size_t>((corners_[i].vertex + 0.5) * inverse);
      corners_[i].vertex -= shift[row];
    }
  }

  /// The filter of ones, (points).
  Eigen::ArrayXf row_sums() const {
    const std::size_t border = 2 * columns_;  // rows that are not there
    std::vector<float> values((rows_ + 4) * columns_), blurred(values.size());
    for (std::size_t i = 0; i < points_ * kCorners; ++i) values[border + corners_[i].vertex] += corners_[i].weight;
    for (int axis = 0; axis < kCorners; ++axis) {
      for (std::size_t row = 0; row < rows_; ++row) {
        const std::ptrdiff_t step = kRowStep[axis] * static_cast<std::ptrdiff_t>(columns_);
        const float* const from = values.data() + border + row * columns_;
        const float *const after = from + step + column_step(axis, row, 1), *const before = from - step +
                                                                                            column_step(axis, row, -1);
        float* const to = blurred.data() + border + row * columns_;
        for (std::size_t c = extents_[row].begin; c < extents_[row].end; ++c) {
          to[c] = from[c] + (before[c] + after[c]) / 2;
        }
        for_each_hole(row, [&](std::size_t c) { to[c] = 0; });
      }
      values.swap(blurred);
    }
    Eigen::ArrayXf sums = Eigen::ArrayXf::Zero(static_cast<Eigen::Index>(points_));
    for (std::size_t i = 0; i < points_ * kCorners; ++i) {
      sums[static_cast<Eigen::Index>(i / kCorners)] += corners_[i].weight * values[border + corners_[i].vertex];
    }
    return sums * Permutohedral<2>::scale();
  }

 private:
  // Of rows and columns on either side: a vertex is at most one cell from its pixel, and its neighbours are one
  // further.
  static constexpr std::ptrdiff_t kMargin = 8;

  /// Half of a row's number, rounded down.
  static std::ptrdiff_t half(std::ptrdiff_t row) { return (row - (row < 0 ? 1 : 0)) / 2; }

  void find_corners(float sxy, Size size, const float* scale, Isa isa) {
    corners_.reserve(points_ * kCorners);
    Simplices<2, float> simplices;
    float features[2][kBlock] = {};
    for (std::size_t y = 0; y < size.height; ++y) {
      // Divided, not multiplied with the inverse, as the published program does: pixels on a face of the lattice then
      // fall to the same side.
      std::fill_n(features[1], kBlock, static_cast<float>(y) / sxy);
      for (std::size_t x = 0; x < size.width; x += kBlock) {
        const std::size_t count = std::min(kBlock, size.width - x);
        for (std::size_t i = 0; i < count; ++i) features[0][i] = static_cast<float>(x + i) / sxy;
        smooseg::detail::run_kernel<EmbedKernel<2>>(isa, static_cast<const float(*)[kBlock]>(features), scale,
                                                    &simplices);
        Corner<float>* const corner = corners_.data() + (y * size.width + x) * kCorners;
        for (std::size_t i = 0; i < count; ++i) set_corners(simplices, i, corner + i * kCorners, touched_[y]);
      }
    }
  }

  /// Section 3.1: towards the vertex of remainder k, the coordinates of the k lowest ranks step down a cell.
  void set_corners(const Simplices<2, float>& s, std::size_t i, Corner<float>* corner, Touched& touched) const {
    float rest[kCorners];
    for (int j = 0; j < kCorners; ++j) rest[s.rank[j][i]] = s.rest[j][i];
    for (int k = 0; k < kCorners; ++k) {
      const std::ptrdiff_t cell1 = s.cell[1][i] - (s.rank[1][i] > 2 - k ? 1 : 0);
      const std::ptrdiff_t cell2 = s.cell[2][i] - (s.rank[2][i] > 2 - k ? 1 : 0);
      const std::ptrdiff_t row = kMargin - (3 * cell2 + k);
      const std::ptrdiff_t column = cell1 - cell2 - half(row - kMargin) + before_;
      const auto r = static_cast<std::size_t>(row);
      corner[k] = {static_cast<std::uint32_t>(r * columns_ + static_cast<std::size_t>(column)),
                   k == 0 ? 1 + rest[2] - rest[0] : rest[2 - k] - rest[3 - k]};
      touched.first = std::min(touched.first, r);
      touched.last = std::max(touched.last, r);
    }
  }

  void find_gaps() {
    std::vector<char> is_vertex(rows_ * columns_);
    for (std::size_t i = 0; i < points_ * kCorners; ++i) is_vertex[corners_[i].vertex] = 1;
    extents_.resize(rows_ + 1);
    for (std::size_t row = 0; row < rows_; ++row) {
      const char* const there = is_vertex.data() + row * columns_;
      Extent& extent = extents_[row];
      extent.first_hole = holes_.size();
      extent.end = columns_;
      while (extent.end > 0 && there[extent.end - 1] == 0) --extent.end;
      while (extent.begin < extent.end && there[extent.begin] == 0) ++extent.begin;
      for (std::size_t c = extent.begin; c < extent.end; ++c) {
        if (there[c] == 0) holes_.push_back(c);
      }
    }
    extents_[rows_].first_hole = holes_.size();
  }

  std::size_t points_, rows_ = 0, columns_ = 0;
  std::ptrdiff_t before_ = 0;  // columns before that of a pixel at the left
  AlignedBuffer<Corner<float>> corners_;
  std::vector<Touched> touched_;  // by row of pixels
  std::vector<Extent> extents_;   // by row, and the end
  std::vector<std::size_t> holes_;
};

/// The filter of a lattice, whose rows take turns in a ring.
class ScanFilter {
 public:
  static constexpr std::size_t kBlock = PositionLattice::kBlock;
  static constexpr int kCorners = PositionLattice::kCorners;
  static constexpr int kAxes = 3;

  /// @param before, after factors of each point's values and sums; the second is kept by address.
  /// @param width of the picture. @param stride channels of a row of values, padded.
  ScanFilter(PositionLattice lattice, const float* before, const float* after, std::size_t width, std::size_t stride)
      : lattice_(std::move(lattice)), after_(after), zeros_(lattice_.columns() * stride) {
    plan(width);
    list_givers(before);
    lattice_.fold(ring_);
    for (auto& buffer : buffers_) buffer.reserve(ring_ * lattice_.columns() * stride);
    std::fill_n(zeros_.data(), lattice_.columns() * stride, 0.f);
  }

  /// Rows of the lattice done in a pass over all points.
  struct Progress {
    std::size_t splatted = 0;
    std::array<std::size_t, kAxes> blurred{};
  };

  /// Splats rows of values and blurs until the sums of a block of points are ready. Rows of blocks before may have
  /// changed since; those of this block and after it must not.
  template <Isa isa, int width>
  SMOOSEG_INLINE void advance(Progress& progress, std::size_t block, const float* rows, std::size_t stride) const {
    float* const even = const_cast<float*>(buffers_[0].data());
    float* const odd = const_cast<float*>(buffers_[1].data());
    const Progress& step = steps_[block];
    for (; progress.splatted < step.splatted; ++progress.splatted) {
      splat<isa, width>(progress.splatted, rows, stride, even);
    }
    for (int axis = 0; axis < kAxes; ++axis) {
      std::size_t& done = progress.blurred[static_cast<std::size_t>(axis)];
      for (; done < step.blurred[static_cast<std::size_t>(axis)]; ++done) {
        blur<isa, width>(axis, done, stride, axis % 2 == 0 ? even : odd, axis % 2 == 0 ? odd : even);
      }
    }
  }

  const Corner<float>* corners() const { return lattice_.corners(); }
  const float* sums() const { return buffers_[1].data(); }
  const float* after() const { return after_; }

 private:
  // Points that give to a vertex come in groups, filled up with weights of 0: with one group for most vertices,
  // branches are foreseen.
  static constexpr std::uint32_t kGroup = 4;
  static constexpr std::size_t kAhead = 24 * kGroup;  // to be fetched

  /// A point that gives to a vertex, and how much of its row.
  struct Giver {
    std::uint32_t point;
    float weight;
  };

  /// Where the ring holds a row of the lattice; for one that is not there, zeros.
  const float* place(const float* ring, std::ptrdiff_t row, std::size_t stride) const {
    if (row < 0 || row >= static_cast<std::ptrdiff_t>(lattice_.rows())) return zeros_.data();
    return ring + static_cast<std::size_t>(row) % ring_ * lattice_.columns() * stride;
  }

  /// Gathers what each vertex gets rather than scatter what each point gives, which would have to wait for the sum of
  /// the point before.
  template <Isa isa, int width>
  SMOOSEG_INLINE void splat(std::size_t row, const float* rows, std::size_t stride, float* ring) const {
    const PositionLattice::Extent extent = lattice_.extent(row);
    float* const to = const_cast<float*>(place(ring, static_cast<std::ptrdiff_t>(row), stride));
    clear_around(extent, stride, to);
    const std::uint32_t* const first_group = first_group_.data() + row * lattice_.columns();
    const Giver* g = givers_.data() + std::size_t{kGroup} * first_group[extent.begin];
    for (std::size_t v = extent.begin; v < extent.end; ++v) {
      smooseg::detail::prefetch(g + kAhead);
      const Giver *const begin = g, *const end = givers_.data() + std::size_t{kGroup} * first_group[v + 1];
      for (std::size_t c = 0; c < stride; c += width) {
        Row<float, isa, width> sum, given;
        sum.clear();
        for (g = begin; g != end; g += kGroup) {
          for (std::size_t i = 0; i < kGroup; ++i) {
            given.load(rows + g[i].point * stride + c);
            sum.add_product(given, g[i].weight);
          }
        }
        sum.store(to + v * stride + c);
      }
    }
  }

  template <Isa isa, int width>
  SMOOSEG_INLINE void blur(int axis, std::size_t row, std::size_t stride, const float* from, float* to) const {
    const PositionLattice::Extent extent = lattice_.extent(row);
    const auto at = static_cast<std::ptrdiff_t>(row), step = PositionLattice::kRowStep[axis];
    const auto shift = [&](std::ptrdiff_t sign) {
      return PositionLattice::column_step(axis, row, sign) * static_cast<std::ptrdiff_t>(stride);
    };
    const float* const middle = place(from, at, stride);
    const float *const before = place(from, at - step, stride) + shift(-1), *const after =
                                                                                place(from, at + step, stride) +
                                                                                shift(1);
    float* const out = const_cast<float*>(place(to, at, stride));
    clear_around(extent, stride, out);
    for (std::size_t i = extent.begin * stride; i < extent.end * stride; i += width) {
      Row<float, isa, width> sum, neighbour;
      sum.load(middle + i);
      neighbour.load(before + i);
      sum.add_product(neighbour, 0.5f);
      neighbour.load(after + i);
      sum.add_product(neighbour, 0.5f);
      sum.store(out + i);
    }
    lattice_.for_each_hole(row, [&](std::size_t column) { std::fill_n(out + column * stride, stride, 0.f); });
  }

  /// Zeros where a row has no vertices.
  void clear_around(const PositionLattice::Extent& extent, std::size_t stride, float* row) const {
    std::fill(row, row + extent.begin * stride, 0.f);
    std::fill(row + extent.end * stride, row + lattice_.columns() * stride, 0.f);
  }

  void list_givers(const float* before) {
    const Corner<float>* const corners = lattice_.corners();
    const std::size_t points = lattice_.points(), places = lattice_.rows() * lattice_.columns();
    std::vector<std::uint32_t> count(places);
    for (std::size_t i = 0; i < points * kCorners; ++i) ++count[corners[i].vertex];
    first_group_.resize(places + 1);
    for (std::size_t v = 0; v < places; ++v) {
      first_group_[v + 1] = first_group_[v] + (count[v] + kGroup - 1) / kGroup;
    }
    givers_.reserve(std::size_t{kGroup} * first_group_[places] + kAhead);
    std::fill(count.begin(), count.end(), 0);
    for (std::size_t i = 0; i < points * kCorners; ++i) {
      const std::size_t point = i / kCorners, v = corners[i].vertex;
      Giver* const to = givers_.data() + std::size_t{kGroup} * first_group_[v] + count[v]++;
      *to = {static_cast<std::uint32_t>(point), before[point] * corners[i].weight};
      for (std::size_t rest = 1; count[v] % kGroup == 1 && rest < kGroup; ++rest) to[rest] = {to->point, 0};
    }
  }

  void plan(std::size_t width) {
    const auto& touched = lattice_.touched();
    std::vector<std::size_t> still_touched(touched.size() + 1, lattice_.rows());
    for (std::size_t y = touched.size(); y-- > 0;) {
      still_touched[y] = std::min(still_touched[y + 1], touched[y].first);
    }
    const auto ahead = [&](std::size_t row, std::size_t count) { return std::min(lattice_.rows(), row + count); };
    const auto behind = [](std::size_t row, std::size_t count) { return row < count ? 0 : row - count; };
    const std::size_t blocks = (lattice_.points() + kBlock - 1) / kBlock;
    steps_.resize(blocks);
    std::size_t wanted = 0, y = 0;
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t first = b * kBlock / width;
      for (; y < touched.size() && y * width < (b + 1) * kBlock; ++y) wanted = std::max(wanted, touched[y].last + 1);
      // A step back from the sums that a block takes: each blur needs the one before it to have passed the neighbours,
      // those that it reads and those that still read what it overwrites.
      Progress& step = steps_[b];
      step.blurred = {ahead(wanted, 3), ahead(wanted, 2), wanted};
      step.splatted = ahead(wanted, 4);
      // The ring holds all from the first that is still read to the last that is splatted.
      std::size_t still_read = still_touched[first];
      if (b > 0) {
        const auto& done = steps_[b - 1].blurred;
        still_read = std::min({still_read, behind(done[0], 1), behind(done[1], 1), behind(done[2], 2)});
      } else {
        still_read = 0;
      }
      ring_ = std::max(ring_, step.splatted - still_read);
    }
  }

  PositionLattice lattice_;
  std::size_t ring_ = 1;                    // rows
  std::vector<Progress> steps_;             // by block of points
  std::vector<std::uint32_t> first_group_;  // of givers, by vertex; and the end
  AlignedBuffer<Giver> givers_;
  AlignedBuffer<float> buffers_[2];
  const float* after_;
  AlignedBuffer<float> zeros_;  // a row
};

}  // namespace smooseg::crf::detail
