#pragma once

// Mean-field inference in fully connected CRFs, in Eigen alone: Kraehenbuehl and Koltun, "Efficient Inference in Fully
// Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011.

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "smooseg/crf/detail/lattice.hpp"
#include "smooseg/crf/detail/registers.hpp"
#include "smooseg/crf/detail/update.hpp"
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
  static PairwiseTerm gaussian(double sxy, double weight) { return {sxy, std::nullopt, weight}; }
  static PairwiseTerm bilateral(double sxy, double srgb, double weight) { return {sxy, srgb, weight}; }

  double sxy;                  ///< standard deviation of positions p, in pixels
  std::optional<double> srgb;  ///< that of colours c, in steps of 1/255; only in a bilateral one
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

/// The size of a picture, in pixels.
struct Size {
  std::size_t height, width;
};

// Pixels more than 6 standard deviations apart do not reach each other in a lattice of up to 5 dimensions, so that all
// bandwidths below this fraction of a step give the same kernel.
constexpr double kLeastBandwidth = 1. / 8;

/// Positions in the first two features, in standard deviations. Divided, not multiplied by the inverse, as the
/// published program does: pixels on a face of the lattice then fall to the same side.
template <int d>
typename Lattice<d>::Features position_features(double bandwidth, Size size) {
  const auto sxy = static_cast<float>(std::max(bandwidth, kLeastBandwidth));
  const auto width = static_cast<Eigen::Index>(size.width);
  typename Lattice<d>::Features features(static_cast<Eigen::Index>(size.height) * width, d);
  const Eigen::ArrayXf columns = Eigen::ArrayXf::LinSpaced(width, 0, static_cast<float>(size.width - 1)) / sxy;
  for (Eigen::Index y = 0; y < static_cast<Eigen::Index>(size.height); ++y) {
    features.col(0).segment(y * width, width) = columns;
    features.col(1).segment(y * width, width).setConstant(static_cast<float>(y) / sxy);
  }
  return features;
}

inline Lattice<5>::Features bilateral_features(const PairwiseTerm& term, const Rgb& image, Size size) {
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

/// The factors that make a lattice's filter w times the normalised kernel.
template <int d>
Factors factors_of(const Lattice<d>& lattice, Normalization normalization, double weight) {
  const float scale = static_cast<float>(weight) * lattice.gaussian_scale();
  const auto n = static_cast<Eigen::Index>(lattice.points());
  if (normalization == Normalization::kNone) return {Eigen::ArrayXf::Ones(n), Eigen::ArrayXf::Constant(n, scale)};
  const Eigen::ArrayXf sums = lattice.row_sums();  // D
  if (normalization == Normalization::kBefore) return {sums.inverse(), Eigen::ArrayXf::Constant(n, scale)};
  if (normalization == Normalization::kAfter) return {Eigen::ArrayXf::Ones(n), scale * sums.inverse()};
  return {sums.rsqrt(), scale * sums.rsqrt()};
}

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

/// A line of pixels, `stride` channels each.
using PixelRows = Eigen::Array<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// (K,H,W) -> rows of `stride` channels, negated and shifted so that the largest is 0; the padding is impossible.
inline void load_unaries(const Planes<const float>& energies, Size size, std::size_t classes, std::size_t stride,
                         float* rows) {
  const auto width = static_cast<Eigen::Index>(size.width);
  for (std::size_t y = 0; y < size.height; ++y, rows += size.width * stride) {
    const auto line = [&](std::size_t k) { return Eigen::Map<const Eigen::ArrayXf>(energies.at(k, y), width); };
    Eigen::ArrayXf least = line(0);
    for (std::size_t k = 1; k < classes; ++k) least = least.min(line(k));
    Eigen::Map<PixelRows> to(rows, width, static_cast<Eigen::Index>(stride));
    for (std::size_t k = 0; k < classes; ++k) to.col(static_cast<Eigen::Index>(k)) = least - line(k);
    to.rightCols(static_cast<Eigen::Index>(stride - classes)).setConstant(-std::numeric_limits<float>::infinity());
  }
}

inline void store_marginals(const float* rows, Size size, std::size_t classes, std::size_t stride,
                            const Planes<float>& marginals) {
  const auto width = static_cast<Eigen::Index>(size.width);
  for (std::size_t y = 0; y < size.height; ++y, rows += size.width * stride) {
    const Eigen::Map<const PixelRows> from(rows, width, static_cast<Eigen::Index>(stride));
    for (std::size_t k = 0; k < classes; ++k) {
      Eigen::Map<Eigen::ArrayXf>(marginals.at(k, y), width) = from.col(static_cast<Eigen::Index>(k));
    }
  }
}

}  // namespace detail

/// Marginals of the labels of a picture's pixels: mean-field inference (Algorithm 1) for the energy (Eqs. 1 and 2) of
/// unary potentials U and the pairwise potentials of `options`,
///
///     Q_i(l) ~ exp(-U_i(l) - sum_l' mu(l,l') sum_m w_m sum_j k_m(i,j) Q_j(l')),
///
/// from Q = softmax(-U) on. As in the published program j = i is not left out. One thread; nothing random. It takes some
/// 150 bytes for each pixel and 100 for each vertex of a bilateral lattice, and for each class 8 more for either.
/// @param image the picture; only bilateral terms use it. @param height, width of the picture, at least 1.
/// @param classes K, at least 1.
/// @param energies U, (K,H,W), finite: -log(p) of probabilities p.
/// @param marginals Q, (K,H,W): each pixel's sum is 1. They may overwrite the energies.
/// @param isa the instruction set that kernels use; the machine must have it.
/// @throws std::invalid_argument for options out of range.
inline void mean_field(const MeanFieldOptions& options, const Rgb& image, std::size_t height, std::size_t width,
                       std::size_t classes, const Planes<const float>& energies, const Planes<float>& marginals,
                       detail::Isa isa = smooseg::detail::machine_isa()) {
  using namespace detail;
  check(options, classes);
  const Size size{height, width};
  MeanField field;
  field.points = height * width;
  field.classes = classes;
  field.stride = padded_channels(classes);
  for (const PairwiseTerm& term : options.terms) {
    const auto add_filter = [&](auto& filters, auto lattice) {
      Factors factors = factors_of(lattice, options.normalization, term.weight);
      filters.emplace_back(std::move(lattice), std::move(factors), field.stride);
    };
    if (term.srgb) {
      add_filter(field.bilaterals, Lattice<5>(bilateral_features(term, image, size), isa));
    } else {
      add_filter(field.positions, Lattice<2>(position_features<2>(term.sxy, size), isa));
    }
  }
  field.unaries.reserve(field.points * field.stride);
  field.marginals.reserve(field.points * field.stride);
  load_unaries(energies, size, classes, field.stride, field.unaries.data());
  field.is_potts = options.compatibility.size() == 0;
  if (!field.is_potts) {
    field.messages.reserve(ScanFilter::kBlock * field.stride);
    field.compatibility.reserve(classes * field.stride);
    Eigen::Map<Eigen::MatrixXf> padded(field.compatibility.data(), static_cast<Eigen::Index>(field.stride),
                                       static_cast<Eigen::Index>(classes));
    padded.setZero();
    padded.topRows(padded.cols()) = options.compatibility;
  }

  for (std::int64_t i = 0;; ++i) {
    with_width(field.stride, [&](auto channels, auto stride) {
      smooseg::detail::run_kernel<UpdateKernel<decltype(channels)::value>>(
          isa, &field, stride, i > 0 && !options.terms.empty(), i == options.iterations);
    });
    if (i == options.iterations) break;
    for (BilateralFilter& filter : field.bilaterals) filter.blur(field.stride, isa);
  }
  store_marginals(field.marginals.data(), size, classes, field.stride, marginals);
}

}  // namespace smooseg::crf
