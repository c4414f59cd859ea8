#pragma once

// A Gaussian over the positions of a picture's pixels, filtered while a loop goes through the pixels in scan order. The
// loop touches the lattice's vertices nearly in their order, so that only those near the current pixels have values, in
// ring buffers that stay in cache.

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "smooseg/crf/detail/lattice.hpp"
#include "smooseg/crf/detail/registers.hpp"
#include "smooseg/detail/kernels/aligned_buffer.hpp"
#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::crf::detail {

/// What each point's values are multiplied by before a filtering, and its sums after it: (n) each.
struct Factors {
  Eigen::ArrayXf before, after;
};

class ScanFilter {
 public:
  static constexpr int kCorners = 3;
  static constexpr std::size_t kBlock = Lattice<2>::kBlock;

  /// @param stride channels of a row of values, padded.
  ScanFilter(Lattice<2> lattice, Factors factors, std::size_t stride)
      : lattice_(std::move(lattice)), factors_(std::move(factors)) {
    list_shares();
    plan();
    for (auto& ring : rings_) {
      ring.reserve((places_ + 1) * stride);
      std::fill_n(ring.data(), stride, 0.f);
    }
  }

  /// Call this before each pass over all blocks.
  void rewind() { done_.fill(1); }

  /// Splats rows of values and blurs until the sums of a block of points are ready. Rows of blocks before may have
  /// changed since the last call; those of this block and after it must not have.
  template <Isa isa, int width, class Stride>
  SMOOSEG_INLINE void advance(std::size_t block, const float* rows, Stride stride) {
    const Progress step = steps_[block];
    splat<isa, width>(done_[0], step[0], rows, stride, rings_[0].data());
    for (int axis = 0; axis < kAxes; ++axis) {
      const auto from = static_cast<std::size_t>(axis % 2), stage = static_cast<std::size_t>(axis) + 1;
      blur<isa, width>(lattice_.neighbours(axis), done_[stage], step[stage], rings_[from].data(), stride,
                       rings_[1 - from].data());
    }
    done_ = step;
  }

  /// The corners of a point, as places of `sums`.
  const Corner<float>* corners(std::size_t point) const { return lattice_.corners(point); }
  const float* sums() const { return rings_[kAxes % 2].data(); }
  /// What the interpolated sums of a point, and of those after it, are multiplied by.
  const float* after(std::size_t point) const { return factors_.after.data() + point; }

 private:
  static constexpr int kAxes = 3;

  /// The end of the vertices that are splatted, and of those that are blurred along each axis.
  using Progress = std::array<std::size_t, 1 + kAxes>;

  /// What a vertex gets of a point's row of values.
  struct Share {
    std::uint32_t point;
    float weight;
  };

  /// Gathers what each vertex gets: to scatter what each point gives would mean waiting for the sums of the point
  /// before.
  template <Isa isa, int width, class Stride>
  SMOOSEG_INLINE void splat(std::size_t begin, std::size_t end, const float* rows, Stride stride, float* to) const {
    const Share* first = shares_.data() + first_share_[begin];
    for_each_place(begin, end, [&](std::size_t v, std::size_t place) SMOOSEG_INLINE_LAMBDA {
      const Share *const shares = first, *const last = shares_.data() + first_share_[v + 1];
      for (std::size_t c = 0; c < stride; c += width) {
        Row<float, isa, width> sum, row;
        for (first = shares; first != last; ++first) {
          row.load(rows + first->point * stride + c);
          sum.add_product(row, first->weight);
        }
        sum.store(to + place * stride + c);
      }
    });
  }

  template <Isa isa, int width, class Stride>
  SMOOSEG_INLINE void blur(const Neighbours* neighbours, std::size_t begin, std::size_t end, const float* from,
                           Stride stride, float* to) const {
    for_each_place(begin, end, [&](std::size_t v, std::size_t place) SMOOSEG_INLINE_LAMBDA {
      for (std::size_t c = 0; c < stride; c += width) {
        Row<float, isa, width> sum, row;
        sum.load(from + place * stride + c);
        row.load(from + neighbours[v].before * stride + c);
        sum.add_product(row, 0.5f);
        row.load(from + neighbours[v].after * stride + c);
        sum.add_product(row, 0.5f);
        sum.store(to + place * stride + c);
      }
    });
  }

  // Vertices take turns in places 1 to `places_`; place 0 holds zeros.
  std::size_t place_of(std::size_t vertex) const { return (vertex - 1) % places_ + 1; }

  /// Calls f(vertex, its place) for the vertices from begin to end; between two turns places follow each other.
  template <class F>
  SMOOSEG_INLINE void for_each_place(std::size_t begin, std::size_t end, const F& f) const {
    while (begin < end) {
      std::size_t place = place_of(begin);
      for (const std::size_t turn = std::min(end, begin + places_ - place + 1); begin < turn; ++begin, ++place) {
        f(begin, place);
      }
    }
  }

  void list_shares() {
    const Corner<float>* const corners = lattice_.corners();
    const std::size_t count = lattice_.points() * kCorners;
    first_share_.resize(lattice_.vertices() + 2);
    for (std::size_t i = 0; i < count; ++i) ++first_share_[corners[i].vertex + 1];
    std::partial_sum(first_share_.begin(), first_share_.end(), first_share_.begin());
    shares_.resize(count);
    std::vector<std::size_t> next = first_share_;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t point = i / kCorners;
      const float before = factors_.before[static_cast<Eigen::Index>(point)];
      shares_[next[corners[i].vertex]++] = {static_cast<std::uint32_t>(point), before * corners[i].weight};
    }
  }

  /// Finds how far to be with each block and how many places that takes, and names vertices by their places.
  void plan() {
    const std::size_t vertices = lattice_.vertices(), blocks = (lattice_.points() + kBlock - 1) / kBlock;
    // Of each vertex and all before it the last neighbour, of each and all after it the first.
    std::vector<std::size_t> last(vertices + 1), first(vertices + 2);
    for (std::size_t v = 1; v <= vertices; ++v) {
      last[v] = std::max(last[v - 1], v);
      first[v] = v;
      for (int axis = 0; axis < kAxes; ++axis) {
        const Neighbours at = lattice_.neighbours(axis)[v];
        last[v] = std::max<std::size_t>({last[v], at.before, at.after});
        if (at.before != 0) first[v] = std::min<std::size_t>(first[v], at.before);
        if (at.after != 0) first[v] = std::min<std::size_t>(first[v], at.after);
      }
    }
    first[vertices + 1] = vertices + 1;
    for (std::size_t v = vertices; v > 0; --v) first[v] = std::min(first[v], first[v + 1]);

    steps_.resize(blocks);
    for (std::size_t b = 0; b < blocks; ++b) {
      // A blur needs the one before it to be done with all neighbours: those that it reads, and those that must have
      // read what it overwrites.
      steps_[b][kAxes] = lattice_.first_new_vertex(b + 1);
      for (std::size_t stage = kAxes; stage > 0; --stage) steps_[b][stage - 1] = last[steps_[b][stage] - 1] + 1;
    }
    std::size_t oldest_read = vertices;  // by this block or one after it
    for (std::size_t b = blocks; b-- > 0;) {
      const std::size_t end = std::min((b + 1) * kBlock, lattice_.points()) * kCorners;
      for (std::size_t i = b * kBlock * kCorners; i < end; ++i) {
        oldest_read = std::min<std::size_t>(oldest_read, lattice_.corners()[i].vertex);
      }
      const std::size_t oldest = std::min(oldest_read, first[b > 0 ? steps_[b - 1][kAxes] : 1]);
      places_ = std::max(places_, steps_[b][0] - oldest);
    }

    std::vector<std::uint32_t> places(lattice_.vertices() + 1);
    for (std::size_t v = 1; v < places.size(); ++v) places[v] = static_cast<std::uint32_t>(place_of(v));
    lattice_.rename(places);
  }

  Lattice<2> lattice_;
  Factors factors_;
  std::vector<std::size_t> first_share_;  // by vertex, and the end
  std::vector<Share> shares_;
  std::vector<Progress> steps_;  // by block of points
  Progress done_{};
  std::size_t places_ = 1;
  smooseg::detail::AlignedBuffer<float> rings_[2];  // rows of values, one a place: read from one, written to the other
};

}  // namespace smooseg::crf::detail
