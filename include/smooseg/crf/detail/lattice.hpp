#pragma once

// The permutohedral lattice of some points: which vertices it has, and how points and vertices are connected.

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "smooseg/crf/detail/simplices.hpp"
#include "smooseg/crf/detail/vertex_table.hpp"
#include "smooseg/detail/kernels/aligned_buffer.hpp"
#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::crf::detail {

/// A vertex of the simplex around a point, and the point's barycentric coordinate for it.
template <class Scalar>
struct Corner {
  std::uint32_t vertex;
  Scalar weight;
};

/// A vertex's two neighbours along one axis of the lattice, 0 where there is none.
struct Neighbours {
  std::uint32_t before, after;
};

/// The vertices of the simplices around n points, numbered from 1 in the order in which points touch them. Vertex 0
/// stands for all that are not there: its values are 0.
template <int d, class Scalar = float>
class Lattice {
 public:
  /// (n,d): one point a row.
  using Features = Eigen::Array<Scalar, Eigen::Dynamic, d>;

  /// Vertices of a simplex.
  static constexpr int kCorners = d + 1;

  /// Points in a block; see `first_new_vertex`.
  static constexpr std::size_t kBlock = Simplices<d, Scalar>::kPoints;

  /// What interpolated sums are multiplied by to approximate the Gaussian: its integral (2 pi)^(d/2), over the volume
  /// (3/2)^(d/2) / sqrt(d + 1) of a vertex and the 2^(d+1) by which the blur (1/2, 1, 1/2 along each axis) grows sums.
  static Scalar gaussian_scale() {
    return static_cast<Scalar>(
        std::ldexp(std::pow(4 * 3.14159265358979323846 / 3, d / 2.0) * std::sqrt(d + 1.0), -(d + 1)));
  }

  /// @throws std::invalid_argument for no point, and features that are not finite or of magnitude above 2^22.
  Lattice(const Eigen::Ref<const Features>& features, smooseg::detail::Isa isa)
      : points_(static_cast<std::size_t>(features.rows())) {
    if (points_ == 0) throw std::invalid_argument("Permutohedral: expected at least one point, got none");
    constexpr int kLargest = 1 << 22;  // beyond, float32 could not tell where in a cell of the lattice a point lies
    const bool is_finite = (features * Scalar(0)).sum() == 0;
    if (!is_finite || features.abs().maxCoeff() > Scalar(kLargest)) {
      throw std::invalid_argument("Permutohedral: expected finite features of at most " + std::to_string(kLargest) +
                                  " standard deviations");
    }
    const KeyUnits unit = key_units(features);
    VertexTable table(points_ / 2);
    find_corners(features, unit, isa, table);
    find_neighbours(unit, table);
  }

  std::size_t points() const { return points_; }
  /// Number of vertices, vertex 0 not counted.
  std::size_t vertices() const { return first_new_vertex_.back() - 1; }

  /// The simplex around each point from this one on: `kCorners` vertices a point.
  const Corner<Scalar>* corners(std::size_t point = 0) const { return corners_.data() + point * kCorners; }

  /// The first vertex that a block of points touches and no block before; also of the end of all blocks.
  std::size_t first_new_vertex(std::size_t block) const { return first_new_vertex_[block]; }

  /// Of each vertex, by its number, along one of the d + 1 axes.
  const Neighbours* neighbours(int axis) const {
    return neighbours_.data() + static_cast<std::size_t>(axis) * (vertices() + 1);
  }

  /// Gives vertices other names, by which corners and neighbours then refer to them.
  void rename(const std::vector<std::uint32_t>& names) {
    for (std::size_t i = 0; i < points_ * kCorners; ++i) corners_[i].vertex = names[corners_[i].vertex];
    for (Neighbours& at : neighbours_) at = {names[at.before], names[at.after]};
  }

  /// The filter of ones, (n).
  Eigen::Array<Scalar, Eigen::Dynamic, 1> row_sums() const {
    std::vector<Scalar> sums(vertices() + 1), blurred(vertices() + 1);
    for (std::size_t i = 0; i < points_ * kCorners; ++i) sums[corners_[i].vertex] += corners_[i].weight;
    for (int axis = 0; axis <= d; ++axis) {
      const Neighbours* const at = neighbours(axis);
      for (std::size_t v = 1; v <= vertices(); ++v) {
        blurred[v] = sums[v] + (sums[at[v].before] + sums[at[v].after]) / 2;
      }
      sums.swap(blurred);
    }
    Eigen::Array<Scalar, Eigen::Dynamic, 1> result(static_cast<Eigen::Index>(points_));
    for (std::size_t i = 0; i < points_; ++i) {
      Scalar sum = 0;
      for (std::size_t k = i * kCorners; k < (i + 1) * kCorners; ++k)
        sum += corners_[k].weight * sums[corners_[k].vertex];
      result[static_cast<Eigen::Index>(i)] = sum * gaussian_scale();
    }
    return result;
  }

 private:
  // A vertex's key is its remainder plus, for coordinates 1 to d, their integer part times a unit, modulo 2^64.
  struct KeyUnits {
    smooseg::detail::Array<std::uint64_t, kCorners> of = {};  // [0] stays 0: coordinates sum to 0
  };
  static constexpr int kRemainderBits = d < 2 ? 1 : d < 4 ? 2 : d < 8 ? 3 : d < 16 ? 4 : 5;

  /// Units that tell apart all vertices near points: each the one before times its coordinate's number of values. Where
  /// that exceeds 64 bits, powers of a multiplier for which sums of small multiples are as good as never equal.
  static KeyUnits key_units(const Eigen::Ref<const Features>& features) {
    constexpr std::uint64_t kMultiplier = 0xd1342543de82ef95;  // Steele and Vigna, 2022
    constexpr double kMargin = 12;  // on either side rounding, a vertex of the simplex and its neighbour may be one off
    smooseg::detail::Array<double, kCorners> count;
    double keys = 1 << kRemainderBits, spread = 0;  // of the sum of the scaled features after the coordinate
    for (int j = d; j >= 1; --j) {
      const auto feature = features.col(j - 1);
      const double width = static_cast<double>(feature.maxCoeff() - feature.minCoeff()) *
                           static_cast<double>(feature_scale<d, Scalar>(j));
      count[j] = std::ceil((spread + j * width) / (d + 1)) + kMargin;
      keys *= count[j];
      spread += width;
    }
    KeyUnits unit;
    std::uint64_t next = std::uint64_t{1} << kRemainderBits;
    for (int j = 1; j <= d; ++j) {
      unit.of[j] = next;
      next *= keys < std::ldexp(1.0, 64) ? static_cast<std::uint64_t>(count[j]) : kMultiplier;
    }
    return unit;
  }

  void find_corners(const Eigen::Ref<const Features>& features, const KeyUnits& unit, smooseg::detail::Isa isa,
                    VertexTable& table) {
    corners_.reserve(points_ * kCorners);
    smooseg::detail::Array<Scalar, d> scale;
    smooseg::detail::Array<Scalar[kBlock], d> block = {};
    for (int j = 0; j < d; ++j) scale[j] = feature_scale<d, Scalar>(j + 1);
    Simplices<d, Scalar> simplices;
    for (std::size_t begin = 0; begin < points_; begin += kBlock) {
      first_new_vertex_.push_back(table.size());
      const std::size_t size = std::min(kBlock, points_ - begin);
      for (int j = 0; j < d; ++j) std::copy_n(features.col(j).data() + begin, size, block[j]);
      smooseg::detail::run_kernel<EmbedKernel<d>>(isa, static_cast<const Scalar(*)[kBlock]>(block),
                                                  static_cast<const Scalar*>(scale), &simplices);
      for (std::size_t i = 0; i < size; ++i) {
        std::uint64_t key = 0;
        smooseg::detail::Array<std::uint64_t, kCorners> step;
        smooseg::detail::Array<Scalar, kCorners> rest;
        for (int j = 0; j <= d; ++j) {
          const std::int32_t rank = simplices.rank[j][i];
          rest[rank] = simplices.rest[j][i];
          step[rank] = unit.of[j];
          key += unit.of[j] * static_cast<std::uint64_t>(simplices.cell[j][i]);
        }
        // Towards the vertex of remainder k, the coordinates of the k lowest ranks step down a cell.
        Corner<Scalar>* const corner = corners_.data() + (begin + i) * kCorners;
        for (int k = 0; k <= d; ++k) {
          if (k > 0) key += 1 - step[d + 1 - k];
          corner[k] = {table.find_or_add(key), k == 0 ? 1 + rest[d] - rest[0] : rest[d - k] - rest[d + 1 - k]};
        }
      }
    }
    first_new_vertex_.push_back(table.size());
  }

  void find_neighbours(const KeyUnits& unit, const VertexTable& table) {
    neighbours_.resize(kCorners * (vertices() + 1));
    std::uint64_t all = 0;
    for (const std::uint64_t u : unit.of) all += u;
    constexpr std::uint64_t kRemainder = (std::uint64_t{1} << kRemainderBits) - 1;
    for (int axis = 0; axis <= d; ++axis) {
      Neighbours* const at = neighbours_.data() + static_cast<std::size_t>(axis) * (vertices() + 1);
      for (std::size_t v = 1; v <= vertices(); ++v) {
        // One more in all coordinates but this one, which goes d down.
        const std::uint64_t key = table.key(v);
        const std::uint32_t after = table.find(((key & kRemainder) == d ? key + all - d : key + 1) - unit.of[axis]);
        at[v].after = after;
        at[after].before = static_cast<std::uint32_t>(v);  // vertex 0's too, to spare a branch
      }
      at[0] = {0, 0};
    }
  }

  std::size_t points_;
  smooseg::detail::AlignedBuffer<Corner<Scalar>> corners_;
  std::vector<std::size_t> first_new_vertex_;  // of each block of points, and the end
  std::vector<Neighbours> neighbours_;         // kCorners axes of vertices() + 1 each
};

}  // namespace smooseg::crf::detail
