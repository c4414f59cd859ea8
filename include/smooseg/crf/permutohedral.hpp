#pragma once

// Gaussian filtering of values at any points of a d-dimensional space, in Eigen alone: Adams, Baek and Davis, "Fast
// High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>

#include "smooseg/crf/detail/lattice.hpp"
#include "smooseg/crf/detail/lattice_kernels.hpp"
#include "smooseg/crf/detail/registers.hpp"
#include "smooseg/detail/kernels/aligned_buffer.hpp"
#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::crf {

/// Filters values at n points of a d-dimensional feature space with a Gaussian of standard deviation 1,
///
///     out_i = sum_j exp(-|f_i - f_j|^2 / 2) in_j,
///
/// approximately and in O(n d^2): each point gives its value to the d + 1 vertices of the simplex around it, the values
/// at vertices are blurred along the lattice's d + 1 axes, and each point takes the interpolated sum. Only vertices
/// near points exist. Built once, the lattice serves any number of filterings.
///
/// The kernel is that of the lattice: not quite isotropic, of compact support and, since vertices without points pass
/// nothing on, lower where points are sparse.
template <int d, class Scalar = float>
class Permutohedral {
  static_assert(d >= 1 && d <= 16);

 public:
  /// (n,d): one point a row.
  using Features = typename detail::Lattice<d, Scalar>::Features;
  /// (n,channels): the values of one point a row.
  using Values = Eigen::Array<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  /// @param features of each point, in standard deviations.
  /// @param isa the instruction set that kernels use; the machine must have it.
  /// @throws std::invalid_argument for no point, and features that are not finite or of magnitude above 2^22.
  explicit Permutohedral(const Eigen::Ref<const Features>& features, detail::Isa isa = smooseg::detail::machine_isa())
      : isa_(isa), lattice_(features, isa) {}

  /// Number of points n.
  std::size_t points() const { return lattice_.points(); }
  /// Number of vertices near points.
  std::size_t vertices() const { return lattice_.vertices(); }

  /// @param values (n,channels). @return (n,channels).
  /// @throws std::invalid_argument for another number of rows.
  Values filter(const Eigen::Ref<const Values>& values) const {
    if (values.rows() != static_cast<Eigen::Index>(points())) {
      throw std::invalid_argument("Permutohedral::filter: expected values of " + std::to_string(points()) +
                                  " points, got " + std::to_string(values.rows()));
    }
    constexpr Eigen::Index kChannels = 32;
    Values result(values.rows(), values.cols());
    smooseg::detail::AlignedBuffer<Scalar> rows, vertex_rows;
    const auto chains = detail::chains_of(lattice_);
    for (Eigen::Index first = 0; first < values.cols(); first += kChannels) {
      const Eigen::Index channels = std::min(kChannels, values.cols() - first);
      const std::size_t stride = detail::padded_channels(static_cast<std::size_t>(channels));
      rows.reserve(points() * stride);
      Eigen::Map<Values> padded(rows.data(), values.rows(), static_cast<Eigen::Index>(stride));
      padded.leftCols(channels) = values.middleCols(first, channels);
      padded.rightCols(padded.cols() - channels).setZero();
      vertex_rows.reserve((vertices() + 1) * stride);
      std::fill_n(vertex_rows.data(), (vertices() + 1) * stride, Scalar(0));
      detail::with_width(stride, [&](auto width, auto) {
        constexpr int kWidth = decltype(width)::value;
        using smooseg::detail::run_kernel;
        const Scalar* const from = rows.data();
        const Scalar* const sums = vertex_rows.data();
        run_kernel<detail::SplatKernel<d, kWidth>>(isa_, lattice_.corners(), points(), from, vertex_rows.data());
        detail::blur(chains, stride, isa_, vertex_rows.data());
        run_kernel<detail::SliceKernel<d, kWidth>>(isa_, lattice_.corners(), points(), sums, lattice_.gaussian_scale(),
                                                   rows.data());
      });
      result.middleCols(first, channels) = padded.leftCols(channels);
    }
    return result;
  }

  /// The filter of ones: (n).
  Eigen::Array<Scalar, Eigen::Dynamic, 1> row_sums() const { return lattice_.row_sums(); }

 private:
  detail::Isa isa_;
  detail::Lattice<d, Scalar> lattice_;
};

}  // namespace smooseg::crf
