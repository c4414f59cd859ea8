#pragma once

// Mean-field inference in fully connected CRFs, in Eigen alone: Kraehenbuehl and Koltun, "Efficient Inference in Fully
// Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011.

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "smooseg/crf/permutohedral.hpp"
#include "smooseg/crf/scan_filter.hpp"
#include "smooseg/detail/kernels/aligned_buffer.hpp"
#include "smooseg/detail/kernels/math.hpp"
#include "smooseg/detail/kernels/simd.hpp"

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

  T* at(std::size_t k, std::size_t y) const {
    return data + static_cast<std::ptrdiff_t>(k) * plane + static_cast<std::ptrdiff_t>(y) * row;
  }
};

/// A picture: channel c at row y and column x is data[y * row + 3 x + c].
struct Rgb {
  const std::uint8_t* data;
  std::ptrdiff_t row;
};

namespace detail {

/// A term as the loop over pixels sees it.
struct Message {
  int corner_count;  // 6, or 3 of a Gaussian term
  const Corner<float>* corners;
  const std::size_t* fresh;  // of the lattice
  const float* values;       // blurred, at vertices
  float* next;               // where the new marginals are splatted
  const float* before;       // a factor of each pixel's marginals
  const float* after;        // a factor of each pixel's message
};

struct Update {
  const Message* messages;
  std::size_t message_count;
  const ScanFilter* const* scans;
  std::size_t scan_count;
  ScanFilter::Progress* progress;  // one for each scan
  std::size_t points, stride, classes;
  const float* unaries;        // the negative energies, -inf in the padding
  float* marginals;            // in and out
  float* row;                  // room for one row
  const float* compatibility;  // columns of mu, padded to `stride`; null: Potts
  bool is_first, is_last;
};

/// One update of all marginals: Q_i = softmax(-U_i + messages), block by block of pixels, which stay in the nearest
/// cache from the messages to the splatting of the new marginals.
template <int width, bool is_one>
struct UpdateKernel {
  static constexpr std::size_t kBlock = ScanFilter::kBlock;

  template <Isa isa>
  using Part = Row<float, isa, width>;

  template <Isa isa>
  SMOOSEG_INLINE static void run(const Update* update) {
    const Update u = *update;
    const std::size_t stride = is_one ? width : u.stride;
    for (std::size_t s = 0; s < u.scan_count; ++s) u.progress[s] = {};
    for (std::size_t begin = 0; begin < u.points; begin += kBlock) {
      const std::size_t count = std::min(kBlock, u.points - begin);
      float* const rows = u.marginals + begin * stride;
      if (!u.is_first) {
        for (std::size_t s = 0; s < u.scan_count; ++s) {
          u.scans[s]->template advance<isa, width>(u.progress[s], begin / kBlock, u.marginals, stride);
        }
        fetch(u, begin + count, std::min(kBlock, u.points - begin - count), stride);
      }
      const float* const unaries = u.unaries + begin * stride;
      if (u.is_first || u.scan_count + u.message_count == 0) {
        std::memcpy(rows, unaries, count * stride * sizeof(float));
      } else if (u.compatibility == nullptr) {
        // A class pays the messages of all others: the total of all, the same for every class, less its own.
        add_messages<isa>(u, begin, count, unaries, rows);
      } else {
        subtract_compatibility<isa>(u, begin, count, rows);
      }
      softmax<isa>(rows, count, stride);
      if (!u.is_last) splat<isa>(u, begin, count, rows);
    }
  }

  /// Asks for what the next block will read: there are more streams than processors foresee.
  SMOOSEG_INLINE static void fetch(const Update& u, std::size_t begin, std::size_t count, std::size_t stride) {
    using smooseg::detail::prefetch;
    prefetch(u.unaries + begin * stride, count * stride);
    for (std::size_t s = 0; s < u.scan_count; ++s) {
      prefetch(u.scans[s]->corners() + begin * ScanFilter::kCorners, count * ScanFilter::kCorners);
    }
    for (std::size_t m = 0; m < u.message_count; ++m) {
      const auto corners = static_cast<std::size_t>(u.messages[m].corner_count);
      prefetch(u.messages[m].corners + begin * corners, count * corners);
    }
  }

  /// Where the messages of a term come from.
  template <int corners>
  struct Source {
    const Corner<float>* corner;  // of all points
    const float *sums, *after;

    static Source of(const ScanFilter& scan) { return {scan.corners(), scan.sums(), scan.after()}; }
    static Source of(const Message& message) { return {message.corners, message.values, message.after}; }
  };

  /// to = from + messages, for the rows of some points.
  template <Isa isa>
  SMOOSEG_INLINE static void add_messages(const Update& u, std::size_t begin, std::size_t count, const float* from,
                                          float* to) {
    if (u.scan_count == 1 && u.message_count == 1 && u.messages[0].corner_count == 6) {  // as in the paper
      return slice<isa>(u, begin, count, from, to, Source<3>::of(*u.scans[0]), Source<6>::of(u.messages[0]));
    }
    for (std::size_t s = 0; s < u.scan_count; ++s, from = to) {
      slice<isa>(u, begin, count, from, to, Source<3>::of(*u.scans[s]));
    }
    for (std::size_t m = 0; m < u.message_count; ++m, from = to) {
      if (u.messages[m].corner_count == 6) {
        slice<isa>(u, begin, count, from, to, Source<6>::of(u.messages[m]));
      } else {
        slice<isa>(u, begin, count, from, to, Source<3>::of(u.messages[m]));
      }
    }
  }

  template <Isa isa, int... corners>
  SMOOSEG_INLINE static void slice(const Update& u, std::size_t begin, std::size_t count, const float* from, float* to,
                                   Source<corners>... sources) {
    const std::size_t stride = is_one ? width : u.stride;
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t c = 0; c < stride; c += width) {
        Part<isa> row;
        row.load(from + i * stride + c);
        (add_message<isa>(row, sources, begin + i, c, stride), ...);
        row.store(to + i * stride + c);
      }
    }
  }

  template <Isa isa, int corners>
  SMOOSEG_INLINE static void add_message(Part<isa>& row, const Source<corners>& source, std::size_t point,
                                         std::size_t channel, std::size_t stride) {
    Part<isa> sum;
    sum.clear();
    slice_row<corners>(sum, source.corner + corners * point, source.sums + channel, stride);
    row.add_product(sum, source.after[point]);
  }

  /// rows = unaries - mu * messages.
  template <Isa isa>
  SMOOSEG_INLINE static void subtract_compatibility(const Update& u, std::size_t begin, std::size_t count,
                                                    float* rows) {
    const std::size_t stride = is_one ? width : u.stride;
    for (std::size_t i = 0; i < count; ++i) {
      std::fill_n(u.row, stride, 0.f);
      add_messages<isa>(u, begin + i, 1, u.row, u.row);
      for (std::size_t c = 0; c < stride; c += width) {
        Part<isa> row, column;
        row.load(u.unaries + (begin + i) * stride + c);
        for (std::size_t k = 0; k < u.classes; ++k) {
          column.load(u.compatibility + k * stride + c);
          row.add_product(column, -u.row[k]);
        }
        row.store(rows + i * stride + c);
      }
    }
  }

  /// Of rows whose largest number is not far from 0, since that of the unaries is 0 and messages are bounded: it need
  /// not be subtracted, which a sum out of range disproves.
  template <Isa isa>
  SMOOSEG_INLINE static void softmax(float* rows, std::size_t count, std::size_t stride) {
    constexpr int kLanes = kRowLanes<float, isa, width>;
    constexpr float kLeast = 1e-10f, kMost = 1e30f;
    const Wide<float, kLanes> limit = Wide<float, kLanes>{} + 80;  // exp(80) is above kMost and still a number
    for (std::size_t i = 0; i < count; ++i) {
      float* const row = rows + i * stride;
      if (is_one) {
        Part<isa> part;
        part.load(row);
        part.lower(limit);
        const float sum = exponentials<isa>(part, 0);
        if (!(sum > kLeast && sum < kMost)) {
          softmax_of_any<isa>(row, stride);
          continue;
        }
        part.multiply(1 / sum);
        part.store(row);
      } else {
        softmax_of_any<isa>(row, stride);
      }
    }
  }

  template <Isa isa>
  SMOOSEG_INLINE static float exponentials(Part<isa>& part, float shift) {
    constexpr int kLanes = kRowLanes<float, isa, width>;
    Wide<float, kLanes> sum{};
    part.exponentiate(shift, sum);
    return smooseg::detail::sum_of_lanes<float, kLanes>(sum);
  }

  template <Isa isa>
  SMOOSEG_INLINE static void softmax_of_any(float* at, std::size_t stride) {
    constexpr int kLanes = kRowLanes<float, isa, width>;
    Part<isa> part;
    Wide<float, kLanes> largest;
    smooseg::detail::load(largest, at);
    for (std::size_t c = 0; c < stride; c += width) {
      part.load(at + c);
      part.raise(largest);
    }
    const float shift = smooseg::detail::largest_lane<float, kLanes>(largest);
    float sum = 0;
    for (std::size_t c = 0; c < stride; c += width) {
      part.load(at + c);
      sum += exponentials<isa>(part, shift);
      part.store(at + c);
    }
    for (std::size_t c = 0; c < stride; c += width) {
      part.load(at + c);
      part.multiply(1 / sum);
      part.store(at + c);
    }
  }

  template <Isa isa>
  SMOOSEG_INLINE static void splat(const Update& u, std::size_t begin, std::size_t count, const float* rows) {
    for (std::size_t m = 0; m < u.message_count; ++m) {
      if (u.messages[m].corner_count == 6) {
        splat<6, isa>(u.messages[m], u.stride, begin, count, rows);
      } else {
        splat<3, isa>(u.messages[m], u.stride, begin, count, rows);
      }
    }
  }

  template <int corners, Isa isa>
  SMOOSEG_INLINE static void splat(const Message& message, std::size_t stride_of_many, std::size_t begin,
                                   std::size_t count, const float* rows) {
    const std::size_t stride = is_one ? width : stride_of_many;
    const std::size_t* const fresh = message.fresh + begin / kBlock;
    std::fill(message.next + fresh[0] * stride, message.next + fresh[1] * stride, 0.f);
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t c = 0; c < stride; c += width) {
        Part<isa> row;
        row.load(rows + i * stride + c);
        row.multiply(message.before[begin + i]);
        splat_row<corners>(row, message.corners + corners * (begin + i), message.next + c, stride);
      }
    }
  }
};

// Pixels that lie further apart than 6 standard deviations do not reach each other in a lattice of up to 5 dimensions,
// so that all bandwidths below this fraction of a step give the same kernel.
constexpr double kLeastBandwidth = 1. / 8;

/// Positions in the first two features, in standard deviations. Divided, not multiplied with the inverse, as the
/// published program does: pixels on a face of the lattice then fall to the same side.
template <int d>
typename Permutohedral<d>::Features position_features(double bandwidth, Size size) {
  const auto sxy = static_cast<float>(std::max(bandwidth, kLeastBandwidth));
  const auto width = static_cast<Eigen::Index>(size.width);
  typename Permutohedral<d>::Features features(static_cast<Eigen::Index>(size.height) * width, d);
  const Eigen::ArrayXf columns = Eigen::ArrayXf::LinSpaced(width, 0, static_cast<float>(size.width - 1)) / sxy;
  for (Eigen::Index y = 0; y < static_cast<Eigen::Index>(size.height); ++y) {
    features.col(0).segment(y * width, width) = columns;
    features.col(1).segment(y * width, width).setConstant(static_cast<float>(y) / sxy);
  }
  return features;
}

inline Permutohedral<5>::Features bilateral_features(const PairwiseTerm& term, const Rgb& image, Size size) {
  auto features = position_features<5>(term.sxy, size);
  const auto srgb = static_cast<float>(std::max(*term.srgb, kLeastBandwidth));
  std::array<float, 256> colours;
  for (std::size_t c = 0; c < colours.size(); ++c) colours[c] = static_cast<float>(c) / srgb;
  Eigen::Index i = 0;
  for (std::size_t y = 0; y < size.height; ++y) {
    const std::uint8_t* pixel = image.data + static_cast<std::ptrdiff_t>(y) * image.row;
    for (std::size_t x = 0; x < size.width; ++x, ++i, pixel += 3) {
      for (int c = 0; c < 3; ++c) features(i, 2 + c) = colours[pixel[c]];
    }
  }
  return features;
}

/// What each pixel's marginals and messages are multiplied with, so that the lattice is w times the normalised kernel.
struct Factors {
  Eigen::ArrayXf before, after;

  template <int d, class Lattice>
  static Factors of(const Lattice& lattice, Normalization normalization, double weight) {
    const auto n = static_cast<Eigen::Index>(lattice.points());
    const auto scale = static_cast<float>(weight) * Permutohedral<d>::scale();
    Eigen::ArrayXf before, after;
    if (normalization != Normalization::kNone) after = lattice.row_sums();  // D
    switch (normalization) {
      case Normalization::kSymmetric:
        before = after.rsqrt();
        after = before * scale;
        break;
      case Normalization::kBefore:
        before = after.inverse();
        after.setConstant(scale);
        break;
      case Normalization::kAfter:
        before.setOnes(n);
        after = scale * after.inverse();
        break;
      case Normalization::kNone:
        before.setOnes(n);
        after.setConstant(n, scale);
        break;
    }
    return {std::move(before), std::move(after)};
  }
};

/// A Gaussian of positions alone, filtered in scan order.
class PositionTerm {
 public:
  PositionTerm(const PairwiseTerm& term, Normalization normalization, Size size, std::size_t stride, Isa isa)
      : PositionTerm(PositionLattice(static_cast<float>(term.sxy), size, isa), normalization, term.weight, size.width,
                     stride) {}

  const ScanFilter& filter() const { return filter_; }

 private:
  PositionTerm(PositionLattice lattice, Normalization normalization, double weight, std::size_t width,
               std::size_t stride)
      : factors_(Factors::of<2>(lattice, normalization, weight)),
        filter_(std::move(lattice), factors_.before.data(), factors_.after.data(), width, stride) {}

  Factors factors_;
  ScanFilter filter_;
};

/// A Gaussian of d features, filtered between the updates.
template <int d>
class LatticeTerm {
 public:
  LatticeTerm(const typename Permutohedral<d>::Features& features, Normalization normalization, double weight,
              std::size_t stride, Isa isa)
      : stride_(stride),
        lattice_(features, isa),
        chains_(lattice_.chains()),
        factors_(Factors::of<d>(lattice_, normalization, weight)),
        values_((lattice_.vertices() + 1) * stride),
        next_((lattice_.vertices() + 1) * stride) {}

  /// Blurs what was splatted, from which the next messages come.
  void blur() {
    std::swap(values_, next_);
    lattice_.blur(chains_, values_.data(), stride_);
  }

  Message message() {
    return {d + 1,        lattice_.corners(0),    lattice_.fresh(),     values_.data(),
            next_.data(), factors_.before.data(), factors_.after.data()};
  }

 private:
  std::size_t stride_;
  Permutohedral<d> lattice_;
  std::vector<std::vector<Link>> chains_;
  Factors factors_;
  AlignedBuffer<float> values_, next_;
};

inline void check(const MeanFieldOptions& options, std::size_t classes) {
  const auto require = [](bool right, const std::string& expected, const std::string& got) {
    if (!right) throw std::invalid_argument("mean_field: expected " + expected + ", got " + got);
  };
  require(options.iterations >= 0, "at least 0 iterations", std::to_string(options.iterations));
  for (const PairwiseTerm& term : options.terms) {
    // Infinite or NaN are wrong too.
    const auto is_bandwidth = [](double x) { return x > 0 && x <= std::numeric_limits<float>::max(); };
    require(is_bandwidth(term.sxy), "a positive bandwidth sxy", std::to_string(term.sxy));
    require(!term.srgb || is_bandwidth(*term.srgb), "a positive bandwidth srgb", std::to_string(term.srgb.value_or(0)));
    require(std::isfinite(static_cast<float>(term.weight)), "a finite weight", std::to_string(term.weight));
  }
  const auto& mu = options.compatibility;
  const auto k = static_cast<Eigen::Index>(classes);
  require(mu.size() == 0 || (mu.rows() == k && mu.cols() == k),
          "a compatibility of " + std::to_string(k) + " x " + std::to_string(k),
          std::to_string(mu.rows()) + " x " + std::to_string(mu.cols()));
  require(mu.allFinite(), "a finite compatibility", "NaN or infinity");
}

/// (K,H,W) -> rows of `stride` channels, negated and shifted so that the largest is 0; the padding is impossible.
inline void load_unaries(const Planes<const float>& energies, Size size, std::size_t classes, std::size_t stride,
                         float* rows) {
  std::vector<float> least(size.width);
  for (std::size_t y = 0; y < size.height; ++y) {
    float* const to = rows + y * size.width * stride;
    std::copy_n(energies.at(0, y), size.width, least.begin());
    for (std::size_t k = 1; k < classes; ++k) {
      const float* const from = energies.at(k, y);
      for (std::size_t x = 0; x < size.width; ++x) least[x] = std::min(least[x], from[x]);
    }
    for (std::size_t k = 0; k < classes; ++k) {
      const float* const from = energies.at(k, y);
      for (std::size_t x = 0; x < size.width; ++x) to[x * stride + k] = least[x] - from[x];
    }
    for (std::size_t x = 0; x < size.width; ++x) {
      std::fill(to + x * stride + classes, to + (x + 1) * stride, -std::numeric_limits<float>::infinity());
    }
  }
}

inline void store_marginals(const float* rows, Size size, std::size_t classes, std::size_t stride,
                            const Planes<float>& marginals) {
  for (std::size_t y = 0; y < size.height; ++y) {
    const float* const from = rows + y * size.width * stride;
    for (std::size_t k = 0; k < classes; ++k) {
      float* const to = marginals.at(k, y);
      for (std::size_t x = 0; x < size.width; ++x) to[x] = from[x * stride + k];
    }
  }
}

}  // namespace detail

/// Marginals of the labels of a picture's pixels: mean-field inference (Algorithm 1) for the energy (Eqs. 1 and 2) of
/// unary potentials U and the pairwise potentials of `options`,
///
///     Q_i(l) ~ exp(-U_i(l) - sum_l' mu(l,l') sum_m w_m sum_j k_m(i,j) Q_j(l')),
///
/// from Q = softmax(-U) on. As in the published program j = i is not left out. One thread; nothing random. Takes some
/// 100 bytes a pixel, and for each class 8 more for each pixel and vertex of a bilateral lattice.
/// @param image the picture; used by bilateral terms alone. @param height, width of the picture, at least 1.
/// @param classes K, at least 1.
/// @param energies U, (K,H,W), finite: -log(p) of probabilities p.
/// @param marginals Q, (K,H,W): each pixel's sum to 1. May be where the energies are.
/// @param isa the instructions that loops use; the machine must have them.
/// @throws std::invalid_argument for options out of range.
inline void mean_field(const MeanFieldOptions& options, const Rgb& image, std::size_t height, std::size_t width,
                       std::size_t classes, const Planes<const float>& energies, const Planes<float>& marginals,
                       detail::Isa isa = smooseg::detail::machine_isa()) {
  using namespace detail;
  check(options, classes);
  const Size size{height, width};
  const std::size_t stride = padded_channels(classes), points = height * width;
  if (classes == 1) {
    for (std::size_t y = 0; y < height; ++y) std::fill_n(marginals.at(0, y), width, 1.f);
    return;
  }

  std::deque<PositionTerm> positions;  // whose addresses stay
  std::deque<LatticeTerm<2>> gaussians;
  std::deque<LatticeTerm<5>> bilaterals;
  std::vector<const ScanFilter*> scans;
  for (const PairwiseTerm& term : options.terms) {
    if (term.srgb) {
      bilaterals.emplace_back(bilateral_features(term, image, size), options.normalization, term.weight, stride, isa);
    } else if (PositionLattice::suits(term.sxy)) {
      scans.push_back(&positions.emplace_back(term, options.normalization, size, stride, isa).filter());
    } else {
      gaussians.emplace_back(position_features<2>(term.sxy, size), options.normalization, term.weight, stride, isa);
    }
  }
  std::vector<Message> messages(gaussians.size() + bilaterals.size());
  std::vector<ScanFilter::Progress> progress(scans.size());

  AlignedBuffer<float> unaries(points * stride), rows(points * stride), row(stride), compatibility(classes * stride);
  load_unaries(energies, size, classes, stride, unaries.data());
  const bool is_potts = options.compatibility.size() == 0;
  if (!is_potts) {
    std::fill_n(compatibility.data(), classes * stride, 0.f);
    const auto k = static_cast<Eigen::Index>(classes);
    Eigen::Map<Eigen::MatrixXf>(compatibility.data(), static_cast<Eigen::Index>(stride), k).topRows(k) =
        options.compatibility;
  }

  Update update{messages.data(),
                messages.size(),
                scans.data(),
                scans.size(),
                progress.data(),
                points,
                stride,
                classes,
                unaries.data(),
                rows.data(),
                row.data(),
                is_potts ? nullptr : compatibility.data(),
                true,
                false};
  for (std::int64_t i = 0; i <= options.iterations; ++i) {
    auto message = messages.begin();
    const auto blur = [&](auto& terms) {
      for (auto& term : terms) {
        if (i > 0) term.blur();
        *message++ = term.message();
      }
    };
    blur(gaussians);
    blur(bilaterals);
    update.is_first = i == 0;
    update.is_last = i == options.iterations;
    with_width(stride, [&](auto width_of_rows) {
      constexpr int kWidth = decltype(width_of_rows)::value;
      if (stride == std::size_t{kWidth}) {
        smooseg::detail::run_kernel<UpdateKernel<kWidth, true>>(isa, const_cast<const Update*>(&update));
      } else {
        smooseg::detail::run_kernel<UpdateKernel<kWidth, false>>(isa, const_cast<const Update*>(&update));
      }
    });
  }
  store_marginals(rows.data(), size, classes, stride, marginals);
}

}  // namespace smooseg::crf
