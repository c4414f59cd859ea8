#pragma once

// A Gaussian over the positions of a picture's pixels, filtered while a loop goes through them in scan order: a vertex
// of the lattice is finished soon after the last pixel beside it, so that only a few rows' vertices exist at a time, in
// a buffer that stays in cache.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "smooseg/crf/permutohedral.hpp"
#include "smooseg/detail/aligned_buffer.hpp"
#include "smooseg/detail/simd.hpp"

namespace smooseg::crf::detail {

/// The order of the work, made once for a lattice whose points come in scan order: what must be done before a block of
/// points takes its sums. Vertices are mapped to a ring of rows.
class ScanFilter {
 public:
  static constexpr std::size_t kBlock = Permutohedral<2>::kBlock;
  static constexpr int kAxes = 3;

  /// @param before, after factors of each point's values and sums; the second is kept by address.
  /// @param stride channels of a row, padded.
  ScanFilter(const Permutohedral<2>& lattice, const float* before, const float* after, std::size_t stride)
      : points_(lattice.points()), vertices_(lattice.vertices()), after_(after) {
    plan(lattice);
    list_givers(lattice, before);
    std::vector<std::uint32_t> slot(vertices_ + 1);  // in the ring; 0 stays 0
    for (std::size_t v = 1; v <= vertices_; ++v) {
      slot[v] = v <= ring_ ? static_cast<std::uint32_t>(v) : slot[v - ring_];
    }
    corners_.reserve(points_ * kAxes);
    for (std::size_t i = 0; i < points_ * kAxes; ++i) {
      corners_[i] = {slot[lattice.corners(0)[i].vertex], lattice.corners(0)[i].weight};
    }
    neighbours_.reserve((vertices_ + 1) * kAxes);
    for (int axis = 0; axis < kAxes; ++axis) {
      Neighbours* const to = neighbours_.data() + static_cast<std::size_t>(axis) * (vertices_ + 1);
      for (std::size_t v = 1; v <= vertices_; ++v) {
        const Neighbours at = lattice.neighbours(axis)[v];
        to[v] = {slot[at.before], slot[at.after]};
      }
    }
    for (auto& buffer : buffers_) {
      buffer.reserve((ring_ + 1) * stride);
      std::fill_n(buffer.data(), stride, 0.f);  // row 0
    }
  }

  /// Vertices done in a pass over all points.
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
    splat<isa, width>(progress.splatted, step.splatted, rows, stride, even);
    blur<isa, width>(0, progress.blurred[0], step.blurred[0], stride, even, odd);
    blur<isa, width>(1, progress.blurred[1], step.blurred[1], stride, odd, even);
    blur<isa, width>(2, progress.blurred[2], step.blurred[2], stride, even, odd);
  }

  const Corner<float>* corners() const { return corners_.data(); }
  const float* sums() const { return buffers_[1].data(); }
  const float* after() const { return after_; }

 private:
  // Points that give to a vertex come in groups, filled up with weights of 0: with one group for most vertices,
  // branches are foreseen.
  static constexpr std::size_t kGroup = 4;

  /// A point that gives to a vertex, and how much of its row.
  struct Giver {
    std::uint32_t point;
    float weight;
  };

  std::size_t blocks() const { return (points_ + kBlock - 1) / kBlock; }

  /// Gathers what each vertex gets rather than scatter what each point gives, which would have to wait for the sum of
  /// the point before.
  template <Isa isa, int width>
  SMOOSEG_INLINE void splat(std::size_t& done, std::size_t until, const float* rows, std::size_t stride,
                            float* to) const {
    if (done >= until) return;
    // In variables of its own: a compiler must fear that rows overwrite what lies in memory.
    const std::size_t ring = ring_;
    const std::size_t* const first_group = first_group_.data();
    const Giver* g = givers_.data() + kGroup * first_group[done];
    std::size_t slot = 1 + done % ring;
    for (std::size_t v = done; v < until; ++v) {
      const Giver *const begin = g, *const end = givers_.data() + kGroup * first_group[v + 1];
      for (std::size_t c = 0; c < stride; c += width) {
        Row<float, isa, width> sum, row;
        sum.clear();
        for (g = begin; g != end; g += kGroup) {
          for (std::size_t i = 0; i < kGroup; ++i) {
            row.load(rows + g[i].point * stride + c);
            sum.add_product(row, g[i].weight);
          }
        }
        sum.store(to + slot * stride + c);
      }
      slot = slot == ring ? 1 : slot + 1;
    }
    done = until;
  }

  template <Isa isa, int width>
  SMOOSEG_INLINE void blur(int axis, std::size_t& done, std::size_t until, std::size_t stride, const float* from,
                           float* to) const {
    if (done >= until) return;
    const std::size_t ring = ring_;
    const Neighbours* const neighbours = neighbours_.data() + static_cast<std::size_t>(axis) * (vertices_ + 1) + 1;
    std::size_t slot = 1 + done % ring;
    for (std::size_t v = done; v < until; ++v) {
      blur_row<isa, width>(neighbours[v], slot, stride, from, to);
      slot = slot == ring ? 1 : slot + 1;
    }
    done = until;
  }

  void list_givers(const Permutohedral<2>& lattice, const float* before) {
    const Corner<float>* const corners = lattice.corners(0);
    std::vector<std::uint32_t> count(vertices_ + 1, 0);
    for (std::size_t i = 0; i < points_ * kAxes; ++i) ++count[corners[i].vertex];
    first_group_.assign(vertices_ + 1, 0);
    for (std::size_t v = 1; v <= vertices_; ++v) {
      first_group_[v] = first_group_[v - 1] + (count[v] + kGroup - 1) / kGroup;
    }
    givers_.reserve(kGroup * first_group_[vertices_]);
    std::fill(count.begin(), count.end(), 0);
    for (std::size_t i = 0; i < points_ * kAxes; ++i) {
      const std::size_t point = i / kAxes, v = corners[i].vertex;
      Giver* const to = givers_.data() + kGroup * first_group_[v - 1] + count[v]++;
      *to = {static_cast<std::uint32_t>(point), before[point] * corners[i].weight};
      for (std::size_t rest = 1; count[v] % kGroup == 1 && rest < kGroup; ++rest) to[rest] = {to->point, 0};
    }
  }

  void plan(const Permutohedral<2>& lattice) {
    // Of the vertices up to each, the last one next to them along an axis, themselves included; of those from each on,
    // the first.
    const std::size_t count = vertices_ + 1;
    std::array<std::vector<std::uint32_t>, kAxes> last, first;
    for (int axis = 0; axis < kAxes; ++axis) {
      const Neighbours* const at = lattice.neighbours(axis);
      auto &highest = last[static_cast<std::size_t>(axis)], &lowest = first[static_cast<std::size_t>(axis)];
      highest.assign(count, 0);
      lowest.assign(count + 1, static_cast<std::uint32_t>(count));
      for (std::size_t v = 1; v < count; ++v) {
        highest[v] = std::max({highest[v - 1], static_cast<std::uint32_t>(v), at[v].before, at[v].after});
      }
      for (std::size_t v = count - 1; v >= 1; --v) {
        lowest[v] = std::min(lowest[v + 1], static_cast<std::uint32_t>(v));
        if (at[v].before != 0) lowest[v] = std::min(lowest[v], at[v].before);
        if (at[v].after != 0) lowest[v] = std::min(lowest[v], at[v].after);
      }
    }
    std::vector<std::uint32_t> highest(blocks()), lowest(blocks() + 1, static_cast<std::uint32_t>(count));
    for (std::size_t i = 0; i < points_ * kAxes; ++i) {
      const std::uint32_t v = lattice.corners(0)[i].vertex;
      auto &high = highest[i / kAxes / kBlock], &low = lowest[i / kAxes / kBlock];
      high = std::max(high, v);
      low = std::min(low, v);
    }
    for (std::size_t b = blocks(); b-- > 0;) lowest[b] = std::min(lowest[b], lowest[b + 1]);

    // A step back from the sums that a block takes: each blur needs the one before it to have passed the neighbours,
    // those that it reads and those that still read what it overwrites.
    steps_.resize(blocks());
    std::uint32_t wanted = 0;
    std::array<std::size_t, kAxes> before{};
    ring_ = 1;
    for (std::size_t b = 0; b < blocks(); ++b) {
      wanted = std::max(wanted, highest[b]);
      Progress& step = steps_[b];
      step.blurred[2] = wanted;
      step.blurred[1] = std::max(last[2][step.blurred[2]], last[1][step.blurred[2]]);
      step.blurred[0] = std::max(last[1][step.blurred[1]], last[0][step.blurred[1]]);
      step.splatted = last[0][step.blurred[0]];
      // The ring holds all from the first that is still read to the last that is splatted.
      std::size_t still_read = lowest[b];
      for (std::size_t axis = 0; axis < kAxes; ++axis) {
        still_read = std::min<std::size_t>(still_read, first[axis][before[axis] + 1]);
      }
      ring_ = std::max(ring_, step.splatted + 1 - still_read);
      before = step.blurred;
    }
  }

  std::size_t points_, vertices_, ring_ = 1;
  std::vector<Progress> steps_;           // by block of points
  std::vector<std::size_t> first_group_;  // of givers, by vertex, from 0 on; and the end
  AlignedBuffer<Giver> givers_;
  AlignedBuffer<Corner<float>> corners_;
  AlignedBuffer<Neighbours> neighbours_;
  AlignedBuffer<float> buffers_[2];
  const float* after_;
};

}  // namespace smooseg::crf::detail
