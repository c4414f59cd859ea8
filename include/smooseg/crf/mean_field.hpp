#pragma once

// Mean-field inference in fully connected CRFs, in Eigen alone: Kraehenbuehl and Koltun, "Efficient Inference in Fully
// Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011.

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "smooseg/crf/permutohedral.hpp"
#include "smooseg/crf/scan_filter.hpp"
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

/// A bilateral term as the loop over pixels sees it.
struct Message {
  const Corner<float>* corners;
  const std::size_t* fresh;  // the lattice's fresh_begin(0), ...
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
  static constexpr int kCorners = 6;
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

  /// to = from + messages, for the rows of some points.
  template <Isa isa>
  SMOOSEG_INLINE static void add_messages(const Update& u, std::size_t begin, std::size_t count, const float* from,
                                          float* to) {
    const std::size_t stride = is_one ? width : u.stride;
    for (std::size_t s = 0; s < u.scan_count; ++s) {
      const ScanFilter& scan = *u.scans[s];
      slice<3, isa>(scan.corners(), scan.sums(), scan.after(), begin, count, stride, from, to);
      from = to;
    }
    for (std::size_t m = 0; m < u.message_count; ++m) {
      const Message& message = u.messages[m];
      slice<kCorners, isa>(message.corners, message.values, message.after, begin, count, stride, from, to);
      from = to;
    }
  }

  template <int corners, Isa isa>
  SMOOSEG_INLINE static void slice(const Corner<float>* corner, const float* sums, const float* after,
                                   std::size_t begin, std::size_t count, std::size_t stride, const float* from,
                                   float* to) {
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t c = 0; c < stride; c += width) {
        Part<isa> sum, row;
        sum.clear();
        slice_row<corners>(sum, corner + corners * (begin + i), sums + c, stride);
        row.load(from + i * stride + c);
        row.add_product(sum, after[begin + i]);
        row.store(to + i * stride + c);
      }
    }
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

  template <Isa isa>
  SMOOSEG_INLINE static void softmax(float* rows, std::size_t count, std::size_t stride) {
    constexpr int kLanes = kRowLanes<float, isa, width>;
    for (std::size_t i = 0; i < count; ++i) {
      float* const at = rows + i * stride;
      Part<isa> row;
      Wide<float, kLanes> largest, sum{};
      smooseg::detail::load(largest, at);
      for (std::size_t c = 0; c < stride; c += width) {
        row.load(at + c);
        row.raise(largest);
      }
      const float shift = smooseg::detail::largest_lane<float, kLanes>(largest);
      for (std::size_t c = 0; c < stride; c += width) {
        if (!is_one) row.load(at + c);
        row.exponentiate(shift, sum);
        if (!is_one) row.store(at + c);
      }
      const float factor = 1 / smooseg::detail::sum_of_lanes<float, kLanes>(sum);
      for (std::size_t c = 0; c < stride; c += width) {
        if (!is_one) row.load(at + c);
        row.multiply(factor);
        row.store(at + c);
      }
    }
  }

  template <Isa isa>
  SMOOSEG_INLINE static void splat(const Update& u, std::size_t begin, std::size_t count, const float* rows) {
    const std::size_t stride = is_one ? width : u.stride;
    for (std::size_t m = 0; m < u.message_count; ++m) {
      const Message& message = u.messages[m];
      const std::size_t* const fresh = message.fresh + begin / kBlock;
      std::fill(message.next + fresh[0] * stride, message.next + fresh[1] * stride, 0.f);
      for (std::size_t i = 0; i < count; ++i) {
        for (std::size_t c = 0; c < stride; c += width) {
          Part<isa> row;
          row.load(rows + i * stride + c);
          row.multiply(message.before[begin + i]);
          splat_row<kCorners>(row, message.corners + kCorners * (begin + i), message.next + c, stride);
        }
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
    if (const auto* const lattice = std::get_if<Permutohedral<2>>(&lattice_)) {
      scan_.emplace(*lattice, before_.data(), after_.data());
      scan_->prepare(stride);
    } else {
      const auto& bilateral = std::get<Permutohedral<5>>(lattice_);
      chains_ = bilateral.chains();
      for (auto& buffer : buffers_) buffer.reserve((bilateral.vertices() + 1) * stride);
      values_ = buffers_[0].data();
      next_ = buffers_[1].data();
    }
  }

  const ScanFilter* scan() const { return scan_ ? &*scan_ : nullptr; }

  /// Blurs what was splatted, from which the next messages come.
  void blur() {
    std::swap(values_, next_);
    std::get<Permutohedral<5>>(lattice_).blur(chains_, values_, stride_);
  }

  Message message() {
    const auto& lattice = std::get<Permutohedral<5>>(lattice_);
    return {lattice.corners(0), lattice.fresh(), values_, next_, before_.data(), after_.data()};
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
    const Array sums = lattice.row_sums();
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
  std::optional<ScanFilter> scan_;
  AlignedBuffer<float> buffers_[2];
  std::vector<std::vector<Link>> chains_;
  float* values_ = nullptr;
  float* next_ = nullptr;
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
  AlignedBuffer<float> unaries(points * stride), rows(points * stride), row(stride), compatibility;
  for (std::size_t y = 0; y < height; ++y) {
    float* const to = unaries.data() + y * width * stride;
    for (std::size_t k = 0; k < stride; ++k) {
      const float* const from = energies.data + static_cast<std::ptrdiff_t>(k) * energies.plane +
                                static_cast<std::ptrdiff_t>(y) * energies.row;
      for (std::size_t x = 0; x < width; ++x) {
        to[x * stride + k] = k < classes ? -from[x] : -std::numeric_limits<float>::infinity();
      }
    }
  }
  std::vector<Message> messages;
  std::vector<const ScanFilter*> scans;
  for (const Term& t : terms) {
    if (t.scan() != nullptr) scans.push_back(t.scan());
  }
  std::vector<ScanFilter::Progress> progress(scans.size());
  Update update{};
  update.scans = scans.data();
  update.scan_count = scans.size();
  update.progress = progress.data();
  update.points = points;
  update.stride = stride;
  update.classes = classes;
  update.unaries = unaries.data();
  update.marginals = rows.data();
  update.row = row.data();
  for (std::int64_t i = 0; i <= options.iterations; ++i) {
    messages.clear();
    for (std::size_t t = 0; t < terms.size(); ++t) {
      if (terms[t].scan() != nullptr) continue;
      if (i > 0) terms[t].blur();
      messages.push_back(terms[t].message());
    }
    update.messages = messages.data();
    update.message_count = messages.size();
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
