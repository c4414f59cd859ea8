#pragma once

// One update of the marginals, in one pass over the pixels.

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "smooseg/crf/detail/lattice.hpp"
#include "smooseg/crf/detail/lattice_kernels.hpp"
#include "smooseg/crf/detail/registers.hpp"
#include "smooseg/crf/detail/scan_filter.hpp"
#include "smooseg/detail/kernels/aligned_buffer.hpp"
#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::crf::detail {

using smooseg::detail::AlignedBuffer;

/// A Gaussian of positions and colours, whose values are blurred between two passes over the pixels: a pass slices
/// `values` and splats the new marginals into `next`.
struct BilateralFilter {
  static constexpr int kCorners = 6;

  BilateralFilter(Lattice<5> of, Factors by, std::size_t stride)
      : lattice(std::move(of)),
        chains(chains_of(lattice)),
        factors(std::move(by)),
        values((lattice.vertices() + 1) * stride),
        next((lattice.vertices() + 1) * stride) {}

  void blur(std::size_t stride, Isa isa) {
    std::swap(values, next);
    detail::blur(chains, stride, isa, values.data());
  }

  Lattice<5> lattice;
  std::array<std::vector<Link>, kCorners> chains;
  Factors factors;
  AlignedBuffer<float> values, next;
};

/// The state of a mean field. Rows have `stride` channels: the classes, padded.
struct MeanField {
  std::size_t points, classes, stride;
  std::vector<ScanFilter> positions;
  std::vector<BilateralFilter> bilaterals;
  AlignedBuffer<float> unaries;        // rows of -U; the padding is -inf
  AlignedBuffer<float> marginals;      // rows
  AlignedBuffer<float> messages;       // a block's rows
  AlignedBuffer<float> compatibility;  // mu, a row for each column
  bool is_potts;
};

/// Q_i = softmax(-U_i + messages), block by block of pixels, which stay in the nearest cache from the messages to the
/// splatting of the new marginals.
template <int width>
struct UpdateKernel {
  static constexpr std::size_t kBlock = ScanFilter::kBlock;

  template <Isa isa>
  using Part = Row<float, isa, width>;

  template <Isa isa, class Stride>
  SMOOSEG_INLINE static void run(MeanField* field, Stride stride, bool has_messages, bool is_last) {
    MeanField& f = *field;
    for (ScanFilter& filter : f.positions) filter.rewind();
    for (std::size_t begin = 0; begin < f.points; begin += kBlock) {
      const std::size_t count = std::min(kBlock, f.points - begin);
      float* const rows = f.marginals.data() + begin * stride;
      const float* const unaries = f.unaries.data() + begin * stride;
      if (!has_messages) {
        std::copy_n(unaries, count * stride, rows);
      } else {
        for (ScanFilter& filter : f.positions) {
          filter.template advance<isa, width>(begin / kBlock, f.marginals.data(), stride);
        }
        if (f.is_potts) {
          // A class pays the messages of all others: the total of all, the same for every class, less its own.
          add_messages<isa>(f, stride, begin, count, unaries, rows);
        } else {
          subtract_compatibility<isa>(f, stride, begin, count, unaries, rows);
        }
      }
      softmax<isa>(rows, count, stride);
      if (is_last) continue;
      for (BilateralFilter& filter : f.bilaterals) splat<isa>(filter, begin, count, rows, stride);
    }
  }

  /// to = from + messages, for the rows of some points.
  template <Isa isa, class Stride>
  SMOOSEG_INLINE static void add_messages(const MeanField& f, Stride stride, std::size_t begin, std::size_t count,
                                          const float* from, float* to) {
    for (const ScanFilter& filter : f.positions) {
      add_message<ScanFilter::kCorners, isa>(filter.corners(begin), filter.sums(), filter.after(begin), stride, count,
                                             from, to);
      from = to;
    }
    for (const BilateralFilter& filter : f.bilaterals) {
      add_message<BilateralFilter::kCorners, isa>(filter.lattice.corners(begin), filter.values.data(),
                                                  filter.factors.after.data() + begin, stride, count, from, to);
      from = to;
    }
  }

  /// to = from + a filter's messages, for the rows of some points.
  template <int corners, Isa isa, class Stride>
  SMOOSEG_INLINE static void add_message(const Corner<float>* corner, const float* sums, const float* after,
                                         Stride stride, std::size_t count, const float* from, float* to) {
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t c = 0; c < stride; c += width) {
        Part<isa> row;
        row.load(from + i * stride + c);
        row.add_product(slice_row<corners, Part<isa>>(corner + corners * i, sums + c, stride), after[i]);
        row.store(to + i * stride + c);
      }
    }
  }

  /// rows = unaries - mu * messages.
  template <Isa isa, class Stride>
  SMOOSEG_INLINE static void subtract_compatibility(MeanField& f, Stride stride, std::size_t begin, std::size_t count,
                                                    const float* unaries, float* rows) {
    float* const messages = f.messages.data();
    std::fill_n(messages, count * stride, 0.f);
    add_messages<isa>(f, stride, begin, count, messages, messages);
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t c = 0; c < stride; c += width) {
        Part<isa> row, column;
        row.load(unaries + i * stride + c);
        for (std::size_t k = 0; k < f.classes; ++k) {
          column.load(f.compatibility.data() + k * stride + c);
          row.add_product(column, -messages[i * stride + k]);
        }
        row.store(rows + i * stride + c);
      }
    }
  }

  template <Isa isa, class Stride>
  SMOOSEG_INLINE static void softmax(float* rows, std::size_t count, Stride stride) {
    for (float* row = rows; row < rows + count * stride; row += stride) {
      Part<isa> part;
      part.load(row);
      float largest = part.largest();
      for (std::size_t c = width; c < stride; c += width) {
        part.load(row + c);
        largest = std::max(largest, part.largest());
      }
      float sum = 0;
      for (std::size_t c = 0; c < stride; c += width) {
        part.load(row + c);
        sum += part.exponentiate(largest);
        part.store(row + c);
      }
      for (std::size_t c = 0; c < stride; c += width) {
        part.load(row + c);
        part.multiply(1 / sum);
        part.store(row + c);
      }
    }
  }

  template <Isa isa, class Stride>
  SMOOSEG_INLINE static void splat(BilateralFilter& filter, std::size_t begin, std::size_t count, const float* rows,
                                   Stride stride) {
    const Corner<float>* const corners = filter.lattice.corners(begin);
    const float* const before = filter.factors.before.data() + begin;
    float* const values = filter.next.data();
    const std::size_t block = begin / kBlock;
    std::fill(values + filter.lattice.first_new_vertex(block) * stride,
              values + filter.lattice.first_new_vertex(block + 1) * stride, 0.f);
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t c = 0; c < stride; c += width) {
        Part<isa> row;
        row.load(rows + i * stride + c);
        row.multiply(before[i]);
        splat_row<BilateralFilter::kCorners>(row, corners + BilateralFilter::kCorners * i, values + c, stride);
      }
    }
  }
};

}  // namespace smooseg::crf::detail
