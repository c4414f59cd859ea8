#pragma once

// Which simplex of the permutohedral lattice a point lies in, and where: section 3.1 of Adams, Baek and Davis (2010).

#include <cmath>
#include <cstdint>

#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::crf::detail {

/// The simplices around some points. Coordinates are those of the hyperplane in d + 1 dimensions whose points sum to 0;
/// there the vertices of the lattice have integer coordinates that are all equal modulo d + 1, their remainder.
template <int d, class Scalar>
struct Simplices {
  static constexpr int kPoints = 64;
  template <class T>
  using Table = smooseg::detail::Array<smooseg::detail::Array<T, kPoints>, d + 1>;
  Table<std::int32_t> cell;  ///< the coordinates of the simplex's vertex of remainder 0, over d + 1
  Table<std::int32_t> rank;  ///< of each coordinate of the point relative to that vertex, 0 for the largest
  Table<Scalar> rest;        ///< these coordinates, over d + 1
};

/// What feature j (from 1 on) is multiplied by as points are mapped into the hyperplane. Rounded as the published
/// program rounds, so that points on a face of the lattice fall to the same side.
template <int d, class Scalar>
Scalar feature_scale(int j) {
  const auto spread = static_cast<Scalar>(std::sqrt(2.0 / 3) * (d + 1));
  return static_cast<Scalar>(1 / std::sqrt(j * (j + 1.0)) * static_cast<double>(spread));
}

template <int d>
struct EmbedKernel {
  /// @param features of kPoints points, feature by feature, in standard deviations. @param scale of each feature.
  template <smooseg::detail::Isa isa, class Scalar>
  SMOOSEG_INLINE static void run(const Scalar (*features)[Simplices<d, Scalar>::kPoints], const Scalar* scale,
                                 Simplices<d, Scalar>* s) {
    constexpr int kPoints = Simplices<d, Scalar>::kPoints;
    constexpr Scalar kInverse = 1 / Scalar(d + 1);
    smooseg::detail::Array<Scalar, kPoints> sum = {};
    smooseg::detail::Array<std::int32_t, kPoints> excess = {};
    // Coordinate j is the sum of the scaled features after j, less j times feature j.
    for (int j = d; j >= 0; --j) {
      for (int i = 0; i < kPoints; ++i) {
        const Scalar scaled = j > 0 ? features[j - 1][i] * scale[j - 1] : 0;
        const Scalar x = sum[i] - Scalar(j) * scaled;
        sum[i] += scaled;
        const Scalar shifted = x * kInverse + Scalar(0.5);
        const auto truncated = static_cast<std::int32_t>(shifted);
        const std::int32_t nearest = truncated - (shifted < static_cast<Scalar>(truncated) ? 1 : 0);
        s->cell[j][i] = nearest;
        s->rest[j][i] = x - static_cast<Scalar>(nearest * (d + 1));
        s->rank[j][i] = 0;
        excess[i] += nearest;
      }
    }
    for (int j = 0; j <= d; ++j) {
      for (int k = j + 1; k <= d; ++k) {
        for (int i = 0; i < kPoints; ++i) {
          const std::int32_t is_lower = s->rest[j][i] < s->rest[k][i] ? 1 : 0;
          s->rank[j][i] += is_lower;
          s->rank[k][i] += 1 - is_lower;
        }
      }
    }
    // Rounding each coordinate may leave the hyperplane; those that were rounded furthest step back.
    for (int j = 0; j <= d; ++j) {
      for (int i = 0; i < kPoints; ++i) {
        const std::int32_t rank = s->rank[j][i] + excess[i];
        const std::int32_t step = rank < 0 ? 1 : rank > d ? -1 : 0;
        s->rank[j][i] = rank + (d + 1) * step;
        s->cell[j][i] += step;
        s->rest[j][i] = (s->rest[j][i] - static_cast<Scalar>(step * (d + 1))) * kInverse;
      }
    }
  }
};

}  // namespace smooseg::crf::detail
