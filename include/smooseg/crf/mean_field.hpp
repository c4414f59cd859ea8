#pragma once

// Mean-field inference in fully connected CRFs, in Eigen alone: Kraehenbuehl and Koltun, "Efficient Inference in Fully
// Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011.

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "smooseg/crf/permutohedral.hpp"
#include "smooseg/detail/aligned_buffer.hpp"
#include "smooseg/detail/simd.hpp"
#include "smooseg/detail/simd_math.hpp"

namespace smooseg::crf {

/// How a kernel matrix K is normalised by D, the diagonal matrix of its row sums.
enum class Normalization {
  kSymmetric,  ///< D^-1/2 K D^-1/2, as the paper's program does
  kBefore,     ///< K D^-1: each pixel gives away a total of 1
  kAfter,      ///< D^-1 K: each pixel takes a weighted mean
  kNone,       ///< K, as the paper's equations have it
};

/// One Gaussian kernel of the pairwise potential (Eqs. 2 and 3), with its weight w:
/// w exp(-|p_i - p_j|^2 / (2 sxy^2) - |c_i - c_j|^2 / (2 srgb^2)), the second part only in a bilateral one.
struct PairwiseTerm {
  /// @param sxy standard deviation of positions p, in pixels.
  static PairwiseTerm gaussian(double sxy, double weight) { return {sxy, std::nullopt, weight}; }

  /// @param sxy standard deviation of positions p, in pixels. @param srgb of colours c, in steps of 1/255.
  static PairwiseTerm bilateral(double sxy, double srgb, double weight) { return {sxy, srgb, weight}; }

  double sxy;
  std::optional<double> srgb;
  double weight;
};

struct MeanFieldOptions {
  /// Updates of the marginals.
  std::int64_t iterations = 10;
  /// The kernels, any number of them.
  std::vector<PairwiseTerm> terms{PairwiseTerm::gaussian(1, 3), PairwiseTerm::bilateral(67, 3, 4)};
  Normalization normalization = Normalization::kSymmetric;
  /// mu of Eq. 2, (K,K): what class l (row) pays beside class l' (column). Empty: Potts, 0 for l = l', else 1.
  Eigen::MatrixXf compatibility;
};

/// Maps of a picture, class by class: that of class k at row y and column x is data[k * plane + y * row + x].
template <class T>
struct Planes {
  T* data;
  std::ptrdiff_t plane, row;
};

/// A picture: channel c at row y and column x is data[y * row + 3 x + c].
struct Rgb {
  const std::uint8_t* data;
  std::ptrdiff_t row;
};

namespace detail {

/// A term as the loop over pixels sees it.
struct Message {
  const Corner<float>* corners;
  int corners_each;          // 3 or 6
  const std::size_t* fresh;  // the lattice's fresh_begin(0), ...
  const float* from;         // blurred values at vertices
  float* to;                 // where the new marginals are splatted
  const float* before;       // a factor of each pixel's marginals
  const float* after;        // a factor of each pixel's message
};

struct Update {
  const Message* messages;
  std::size_t count;
  std::size_t points, stride;
  float* rows;                 // in: the negative energies, -inf in the padding. Out, if `is_last`: the marginals
  float* scratch;              // one row
  const float* compatibility;  // columns of mu, padded to `stride`; null: Potts
  std::size_t classes;
  bool is_first, is_last;
};

/// One update of all marginals: Q_i = softmax(-U_i + messages). Each pixel's messages are sliced from the lattices,
/// and its new marginals splatted into them right away.
template <int width, bool is_one>
struct UpdateKernel {
  template <Isa isa>
  using Part = Row<float, isa, width>;

  template <Isa isa>
  SMOOSEG_INLINE static void run(const Update* update) {
    const Update u = *update;
    constexpr std::size_t kBlock = Permutohedral<2>::kBlock;
    for (std::size_t begin = 0; begin < u.points; begin += kBlock) {
      if (!u.is_last) clear_fresh(u, begin / kBlock);
      const std::size_t end = std::min(begin + kBlock, u.points);
      for (std::size_t i = begin; i < end; ++i) pixel<isa>(u, i);
    }
  }

  SMOOSEG_INLINE static void clear_fresh(const Update& u, std::size_t block) {
    for (std::size_t m = 0; m < u.count; ++m) {
      const std::size_t* const fresh = u.messages[m].fresh + block;
      std::fill(u.messages[m].to + fresh[0] * u.stride, u.messages[m].to + fresh[1] * u.stride, 0.f);
    }
  }

  template <Isa isa>
  SMOOSEG_INLINE static void pixel(const Update& u, std::size_t i) {
    const std::size_t stride = is_one ? width : u.stride;
    float* const out = u.rows + i * stride;
    constexpr int kLanes = Part<isa>::kLanes, kParts = Part<isa>::kParts;
    Part<isa> row;
    Wide<float, kLanes> largest, sum{};
    for (std::size_t c = 0; c < stride; c += width) {
      row.load(out + c);
      if (!u.is_first) {
        if (u.compatibility == nullptr) {
          add_messages<isa>(u, i, c, row);
        } else {
          add_compatibility<isa>(u, i, c, row);
        }
      }
      for (int p = 0; p < kParts; ++p) {
        if (c == 0 && p == 0) {
          largest = row.part[0];
        } else {
          smooseg::detail::raise<float, kLanes>(largest, row.part[p]);
        }
      }
      if (!is_one) row.store(u.scratch + c);
    }
    const float shift = smooseg::detail::largest_lane<float, kLanes>(largest);
    for (std::size_t c = 0; c < stride; c += width) {
      if (!is_one) row.load(u.scratch + c);
      for (int p = 0; p < kParts; ++p) {
        row.part[p] = row.part[p] - shift;
        smooseg::detail::exponential<kLanes>(row.part[p]);
        sum = sum + row.part[p];
      }
      if (!is_one) row.store(u.scratch + c);
    }
    const float factor = 1 / smooseg::detail::sum_of_lanes<float, kLanes>(sum);
    for (std::size_t c = 0; c < stride; c += width) {
      if (!is_one) row.load(u.scratch + c);
      row.multiply(factor);
      if (u.is_last) {
        row.store(out + c);
      } else {
        splat_marginals<isa>(u, i, c, row);
      }
    }
  }

  /// With Potts, a class pays the messages of all others, which is the total of all, the same for every class, less its
  /// own.
  template <Isa isa>
  SMOOSEG_INLINE static void add_messages(const Update& u, std::size_t i, std::size_t c, Part<isa>& row) {
    const std::size_t stride = is_one ? width : u.stride;
    for (std::size_t m = 0; m < u.count; ++m) {
      const Message& message = u.messages[m];
      Part<isa> sum{};
      if (message.corners_each == 3) {
        slice_row<3>(sum, message.corners + 3 * i, message.from + c, stride);
      } else {
        slice_row<6>(sum, message.corners + 6 * i, message.from + c, stride);
      }
      row.add_product(sum, message.after[i]);
    }
  }

  template <Isa isa>
  SMOOSEG_INLINE static void add_compatibility(const Update& u, std::size_t i, std::size_t c, Part<isa>& row) {
    const std::size_t stride = is_one ? width : u.stride;
    float* const totals = u.scratch + stride;
    if (c == 0) {
      for (std::size_t at = 0; at < stride; at += width) {
        Part<isa> total{};
        add_messages<isa>(u, i, at, total);
        total.store(totals + at);
      }
    }
    for (std::size_t k = 0; k < u.classes; ++k) {
      Part<isa> column;
      column.load(u.compatibility + k * stride + c);
      row.add_product(column, -totals[k]);
    }
  }

  template <Isa isa>
  SMOOSEG_INLINE static void splat_marginals(const Update& u, std::size_t i, std::size_t c, const Part<isa>& row) {
    const std::size_t stride = is_one ? width : u.stride;
    for (std::size_t m = 0; m < u.count; ++m) {
      const Message& message = u.messages[m];
      Part<isa> given = row;
      given.multiply(message.before[i]);
      if (message.corners_each == 3) {
        splat_row<3>(given, message.corners + 3 * i, message.to + c, stride);
      } else {
        splat_row<6>(given, message.corners + 6 * i, message.to + c, stride);
      }
    }
  }
};

/// A term's lattice over a picture's pixels, the values at its vertices, and the factors that normalise it.
class Term {
 public:
  Term(const PairwiseTerm& term, const Rgb& image, std::size_t height, std::size_t width, Isa isa)
      : lattice_(term.srgb ? Lattice(std::in_place_type<Permutohedral<5>>, bilateral(term, image, height, width), isa)
                           : Lattice(std::in_place_type<Permutohedral<2>>, positions<2>(term, height, width), isa)) {}

  /// The factors such that before * lattice * after is w times the normalised kernel.
  void normalize(Normalization normalization, double weight, Isa isa) {
    std::visit([&](const auto& lattice) { this->normalize(lattice, normalization, weight, isa); }, lattice_);
  }

  std::size_t vertices() const {
    return std::visit([](const auto& lattice) { return lattice.vertices(); }, lattice_);
  }

  /// @param stride channels of a row, padded.
  void prepare(std::size_t stride) {
    stride_ = stride;
    std::visit(
        [&](const auto& lattice) {
          from_ = lattice.vertex_rows(buffers_[0], stride);
          to_ = lattice.vertex_rows(buffers_[1], stride);
        },
        lattice_);
  }

  /// Blurs what was splatted, from which the next messages come.
  void blur() {
    std::visit([&](const auto& lattice) { lattice.blur(to_, from_, stride_); }, lattice_);
    std::swap(from_, to_);
  }

  Message message() {
    return std::visit(
        [&](const auto& lattice) {
          return Message{lattice.corners(0), lattice.kCorners,  lattice.fresh(), from_, to_, before_.data(),
                         after_.data()};
        },
        lattice_);
  }

 private:
  using Lattice = std::variant<Permutohedral<2>, Permutohedral<5>>;

  // Pixels that lie further apart than 6 standard deviations do not reach each other in a lattice of up to 5 dimensions,
  // so that smaller bandwidths than this fraction of a step all give the same kernel.
  static constexpr double kLeastBandwidth = 1. / 8;

  template <int d>
  static typename Permutohedral<d>::Features positions(const PairwiseTerm& term, std::size_t height,
                                                       std::size_t width) {
    const auto w = static_cast<Eigen::Index>(width), h = static_cast<Eigen::Index>(height);
    const auto sxy = static_cast<float>(std::max(term.sxy, kLeastBandwidth));
    typename Permutohedral<d>::Features features(h * w, d);
    for (Eigen::Index y = 0; y < h; ++y) {
      features.col(0).segment(y * w, w) = Eigen::ArrayXf::LinSpaced(w, 0, static_cast<float>(w - 1)) / sxy;
      features.col(1).segment(y * w, w) = static_cast<float>(y) / sxy;
    }
    return features;
  }

  static Permutohedral<5>::Features bilateral(const PairwiseTerm& term, const Rgb& image, std::size_t height,
                                              std::size_t width) {
    auto features = positions<5>(term, height, width);
    const auto srgb = static_cast<float>(std::max(*term.srgb, kLeastBandwidth));
    const auto w = static_cast<Eigen::Index>(width);
    for (std::size_t y = 0; y < height; ++y) {
      const std::uint8_t* const from = image.data + static_cast<std::ptrdiff_t>(y) * image.row;
      const Eigen::Map<const Eigen::Array<std::uint8_t, Eigen::Dynamic, 3, Eigen::RowMajor>> pixels(from, w, 3);
      features.block(static_cast<Eigen::Index>(y) * w, 2, w, 3) = pixels.cast<float>() / srgb;
    }
    return features;
  }

  template <int d>
  void normalize(const Permutohedral<d>& lattice, Normalization normalization, double weight, Isa isa) {
    using Array = Eigen::ArrayXf;
    static_cast<void>(isa);
    const auto n = static_cast<Eigen::Index>(lattice.points());
    const auto w = static_cast<float>(weight);
    const Array sums = lattice.filter(Permutohedral<d>::Values::Ones(n, 1));
    constexpr float kScale = Permutohedral<d>::scale();
    switch (normalization) {
      case Normalization::kSymmetric:
        before_ = sums.rsqrt();
        after_ = before_ * (w * kScale);
        break;
      case Normalization::kBefore:
        before_ = sums.inverse();
        after_ = Array::Constant(n, w * kScale);
        break;
      case Normalization::kAfter:
        before_ = Array::Ones(n);
        after_ = sums.inverse() * (w * kScale);
        break;
      case Normalization::kNone:
        before_ = Array::Ones(n);
        after_ = Array::Constant(n, w * kScale);
        break;
    }
  }

  Lattice lattice_;
  AlignedBuffer<float> buffers_[2];
  float* from_ = nullptr;
  float* to_ = nullptr;
  std::size_t stride_ = 0;
  Eigen::ArrayXf before_, after_;
};

}  // namespace detail

/// Marginals of the labels of one picture: mean-field inference (Algorithm 1) for the energy of unary potentials U and
/// the pairwise potentials of `options`, from Q = softmax(-U) on.
/// @param energies U, (K,H,W), finite; probabilities p as -log(p).
/// @param marginals Q, (K,H,W); may be where the energies are.
inline void mean_field(const MeanFieldOptions& options, const Rgb& image, std::size_t height, std::size_t width,
                       std::size_t classes, const Planes<const float>& energies, const Planes<float>& marginals,
                       detail::Isa isa = smooseg::detail::machine_isa()) {
  using namespace detail;
  const std::size_t stride = padded_channels(classes), points = height * width;
  std::vector<Term> terms;
  terms.reserve(options.terms.size());
  for (const PairwiseTerm& t : options.terms) {
    terms.emplace_back(t, image, height, width, isa);
    terms.back().normalize(options.normalization, t.weight, isa);
    terms.back().prepare(stride);
  }
  AlignedBuffer<float> rows(points * stride), scratch(2 * stride), compatibility;
  for (std::size_t y = 0; y < height; ++y) {
    float* const to = rows.data() + y * width * stride;
    for (std::size_t k = 0; k < stride; ++k) {
      const float* const from = energies.data + static_cast<std::ptrdiff_t>(k) * energies.plane +
                                static_cast<std::ptrdiff_t>(y) * energies.row;
      for (std::size_t x = 0; x < width; ++x) {
        to[x * stride + k] = k < classes ? -from[x] : -std::numeric_limits<float>::infinity();
      }
    }
  }
  std::vector<Message> messages(terms.size());
  Update update{messages.data(), messages.size(), points, stride, rows.data(), scratch.data(), nullptr, classes,
                true, false};
  for (std::int64_t i = 0; i <= options.iterations; ++i) {
    for (std::size_t t = 0; t < terms.size(); ++t) {
      if (i > 0) terms[t].blur();
      messages[t] = terms[t].message();
    }
    update.is_first = i == 0;
    update.is_last = i == options.iterations;
    with_width(stride, [&](auto w) {
      constexpr int kWidth = decltype(w)::value;
      if (stride == kWidth) {
        smooseg::detail::run_kernel<UpdateKernel<kWidth, true>>(isa, &update);
      } else {
        smooseg::detail::run_kernel<UpdateKernel<32, false>>(isa, &update);
      }
    });
  }
  for (std::size_t y = 0; y < height; ++y) {
    const float* const from = rows.data() + y * width * stride;
    for (std::size_t k = 0; k < classes; ++k) {
      float* const to = marginals.data + static_cast<std::ptrdiff_t>(k) * marginals.plane +
                        static_cast<std::ptrdiff_t>(y) * marginals.row;
      for (std::size_t x = 0; x < width; ++x) to[x] = from[x * stride + k];
    }
  }
}

}  // namespace smooseg::crf
