#pragma once

// The three steps of a filtering over rows of values: splat to the vertices, blur along the axes, slice at the points.

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "smooseg/crf/detail/lattice.hpp"
#include "smooseg/crf/detail/registers.hpp"
#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::crf::detail {

/// Splats `width` channels: values += weight * row, at each corner.
template <int corners, class Row, class Scalar>
SMOOSEG_INLINE void splat_row(const Row& row, const Corner<Scalar>* corner, Scalar* values, std::size_t stride) {
  for (int c = 0; c < corners; ++c) {
    Scalar* const to = values + corner[c].vertex * stride;
    Row value;
    value.load(to);
    value.add_product(row, corner[c].weight);
    value.store(to);
  }
}

/// Slices `width` channels: the sum over corners of weight * values.
template <int corners, class Row, class Scalar>
SMOOSEG_INLINE Row slice_row(const Corner<Scalar>* corner, const Scalar* values, std::size_t stride) {
  Row sum, value;
  for (int c = 0; c < corners; ++c) {
    value.load(values + corner[c].vertex * stride);
    sum.add_product(value, corner[c].weight);
  }
  return sum;
}

template <int d, int width>
struct SplatKernel {
  template <Isa isa, class Scalar>
  SMOOSEG_INLINE static void run(const Corner<Scalar>* corners, std::size_t points, const Scalar* rows,
                                 Scalar* values) {
    for (std::size_t i = 0; i < points; ++i) {
      Row<Scalar, isa, width> row;
      row.load(rows + i * width);
      splat_row<d + 1>(row, corners + i * (d + 1), values, width);
    }
  }
};

template <int d, int width>
struct SliceKernel {
  template <Isa isa, class Scalar>
  SMOOSEG_INLINE static void run(const Corner<Scalar>* corners, std::size_t points, const Scalar* values, Scalar factor,
                                 Scalar* rows) {
    for (std::size_t i = 0; i < points; ++i) {
      auto row = slice_row<d + 1, Row<Scalar, isa, width>>(corners + i * (d + 1), values, width);
      row.multiply(factor);
      row.store(rows + i * width);
    }
  }
};

/// A step along a chain of vertices that are neighbours along an axis: a vertex, and 1/2 where the next step goes to
/// its neighbour, 0 where another chain begins.
struct Link {
  std::uint32_t vertex;
  float half;
};

/// The chains of vertices along each axis, and one more step, which is read but not taken. Vertices without a neighbour,
/// which a blur leaves as they are, are left out.
template <int d, class Scalar>
std::array<std::vector<Link>, std::size_t{d} + 1> chains_of(const Lattice<d, Scalar>& lattice) {
  std::array<std::vector<Link>, std::size_t{d} + 1> chains;
  std::vector<std::uint32_t> heads(lattice.vertices() + 1);
  for (int axis = 0; axis <= d; ++axis) {
    std::vector<Link>& links = chains[static_cast<std::size_t>(axis)];
    links.reserve(lattice.vertices() + 1);
    const Neighbours* const at = lattice.neighbours(axis);
    std::size_t count = 0;
    for (std::uint32_t v = 1; v <= lattice.vertices(); ++v) {
      heads[count] = v;  // kept or overwritten, without a branch that could not be predicted
      count += static_cast<std::size_t>((at[v].before == 0) & (at[v].after != 0));
    }
    for (std::size_t i = 0; i < count; ++i) {
      for (std::uint32_t v = heads[i]; v != 0; v = at[v].after) links.push_back({v, 0.5f});
      links.back().half = 0;
    }
    links.push_back({1, 0});
  }
  return chains;
}

/// value = value + (before + after) / 2 for all vertices of an axis's chains, in place: along a chain each row is read
/// and written once.
template <int width>
struct BlurKernel {
  template <Isa isa, class Stride, class Scalar>
  SMOOSEG_INLINE static void run(const Link* links, std::size_t count, Stride stride, Scalar* values) {
    for (std::size_t c = 0; c < stride; c += width) {
      Row<Scalar, isa, width> before, row, after;
      Scalar half_before = 0;
      if (count > 0) row.load(values + links[0].vertex * stride + c);
      for (std::size_t i = 0; i < count; ++i) {
        const auto half = static_cast<Scalar>(links[i].half);
        after.load(values + links[i + 1].vertex * stride + c);
        Row<Scalar, isa, width> blurred = row;
        blurred.add_product(before, half_before);
        blurred.add_product(after, half);
        blurred.store(values + links[i].vertex * stride + c);
        before = row;
        row = after;
        half_before = half;
      }
    }
  }
};

/// Blurs the rows of `values`, one a vertex, along each axis.
template <std::size_t axes, class Scalar>
void blur(const std::array<std::vector<Link>, axes>& chains, std::size_t stride, Isa isa, Scalar* values) {
  with_width(stride, [&](auto width, auto row_stride) {
    for (const std::vector<Link>& links : chains) {
      smooseg::detail::run_kernel<BlurKernel<decltype(width)::value>>(isa, links.data(), links.size() - 1, row_stride,
                                                                      values);
    }
  });
}

}  // namespace smooseg::crf::detail
