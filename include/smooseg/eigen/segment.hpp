#pragma once

// From a backbone's features to labels, in Eigen alone: for targets without LibTorch, where ONNX Runtime, TensorRT or
// the like computes the features.

#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "smooseg/eigen/detail/columns.hpp"
#include "smooseg/eigen/matrix.hpp"
#include "smooseg/io/safetensors_reader.hpp"

namespace smooseg::eigen {

/// What follows the backbone: the projector, z = W x + b + W'' silu(W' x + b') + b'', and the teacher's prototypes. C
/// are the features' channels, D those of the code, K the classes.
template <class Scalar>
struct Head {
  Matrix<Scalar> linear_weight;  ///< W, (D,C)
  Vector<Scalar> linear_bias;    ///< b, (D)
  Matrix<Scalar> hidden_weight;  ///< W', (C,C)
  Vector<Scalar> hidden_bias;    ///< b', (C)
  Matrix<Scalar> out_weight;     ///< W'', (D,C)
  Vector<Scalar> out_bias;       ///< b'', (D)
  Matrix<Scalar> teacher;        ///< Pt, (K,D)
};

/// A label for each pixel: (height, width), row by row.
using LabelMap = Eigen::Matrix<int, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// How the patches of a picture lie, and how large its labels are wanted.
struct Layout {
  Eigen::Index rows = 0, columns = 0;  ///< of patches; patch p lies in row p / columns and column p % columns
  Eigen::Index height = 0, width = 0;  ///< of the label map
  /// How many rows and columns of patches the picture fills: fewer than there are, and perhaps a fraction, where it was
  /// padded to whole patches (picture size / patch size). 0: all.
  double filled_rows = 0, filled_columns = 0;
};

namespace detail {

template <class Scalar>
void check_head(const Head<Scalar>& head, const std::string& function) {
  const Eigen::Index c = head.linear_weight.cols(), d = head.linear_weight.rows();
  const auto require = [&](bool fits, const std::string& name, const std::string& expected, const std::string& got) {
    if (!fits) throw std::invalid_argument(function + ": expected " + name + " of shape " + expected + ", got " + got);
  };
  require(c > 0 && d > 0, "linear_weight", "(D, C), with no dimension of size 0", shape_of(head.linear_weight));
  const std::string beside = " to go with linear_weight " + shape_of(head.linear_weight);
  const auto check_matrix = [&](const Matrix<Scalar>& m, const char* name, Eigen::Index rows, Eigen::Index columns) {
    require(m.rows() == rows && m.cols() == columns, name,
            "(" + std::to_string(rows) + ", " + std::to_string(columns) + ")" + beside, shape_of(m));
  };
  const auto check_vector = [&](const Vector<Scalar>& v, const char* name, Eigen::Index size) {
    require(v.size() == size, name, "(" + std::to_string(size) + ")" + beside, "(" + std::to_string(v.size()) + ")");
  };
  check_vector(head.linear_bias, "linear_bias", d);
  check_matrix(head.hidden_weight, "hidden_weight", c, c);
  check_vector(head.hidden_bias, "hidden_bias", c);
  check_matrix(head.out_weight, "out_weight", d, c);
  check_vector(head.out_bias, "out_bias", d);
  require(head.teacher.rows() > 0 && head.teacher.cols() == d, "teacher", "(K, " + std::to_string(d) + ")" + beside,
          shape_of(head.teacher));
}

/// Bilinear sampling along one axis, corners not aligned: output i is lower (1 - weight) + upper weight of the cells
/// named.
struct AxisSample {
  Eigen::Index lower, upper;
  double weight;

  /// @param outputs over the whole axis. @param filled what the axis measures in cells. @param cells their number.
  AxisSample(Eigen::Index i, Eigen::Index outputs, double filled, Eigen::Index cells) {
    const double middle = (static_cast<double>(i) + 0.5) * (filled / static_cast<double>(outputs)) - 0.5;
    const double at = std::min(std::max(middle, 0.0), static_cast<double>(cells - 1));
    lower = static_cast<Eigen::Index>(at);
    upper = std::min(lower + 1, cells - 1);
    weight = at - static_cast<double>(lower);
  }
};

inline void check_layout(const Layout& layout, Eigen::Index patches) {
  const auto pair = [](auto a, auto b) { return std::to_string(a) + " x " + std::to_string(b); };
  if (layout.rows < 1 || layout.columns < 1 || patches % layout.columns != 0 ||
      patches / layout.columns != layout.rows) {
    fail("segment", "expected rows x columns to be the features' " + std::to_string(patches) + " patches, got " +
                        pair(layout.rows, layout.columns));
  }
  if (layout.height < 1 || layout.width < 1) {
    fail("segment", "expected a height and width of at least 1, got " + pair(layout.height, layout.width));
  }
  const auto fills = [](double filled, Eigen::Index cells) {
    return filled >= 0 && filled <= static_cast<double>(cells);
  };
  if (!fills(layout.filled_rows, layout.rows) || !fills(layout.filled_columns, layout.columns)) {
    fail("segment", "expected filled_rows and filled_columns of 0 to " + pair(layout.rows, layout.columns) + ", got " +
                        pair(layout.filled_rows, layout.filled_columns));
  }
}

/// The most similar class of each pixel, from the patches' similarities (K,N), upsampled.
template <class Scalar>
LabelMap upsampled_labels(const Matrix<Scalar>& similarities, const Layout& layout) {
  const auto filled = [](double given, Eigen::Index cells) { return given > 0 ? given : static_cast<double>(cells); };
  const double filled_rows = filled(layout.filled_rows, layout.rows);
  const double filled_columns = filled(layout.filled_columns, layout.columns);
  std::vector<AxisSample> across;
  across.reserve(static_cast<std::size_t>(layout.width));
  for (Eigen::Index x = 0; x < layout.width; ++x) {
    across.emplace_back(x, layout.width, filled_columns, layout.columns);
  }

  const auto lerp = [](const auto& a, const auto& b, double weight) {
    return a * Scalar(1 - weight) + b * Scalar(weight);
  };
  LabelMap labels(layout.height, layout.width);
  Matrix<Scalar> line(similarities.rows(), layout.columns);
  Vector<Scalar> pixel(similarities.rows());
  for (Eigen::Index y = 0; y < layout.height; ++y) {
    const AxisSample down(y, layout.height, filled_rows, layout.rows);
    const auto row = [&](Eigen::Index of) { return similarities.middleCols(of * layout.columns, layout.columns); };
    line = lerp(row(down.lower), row(down.upper), down.weight);
    for (Eigen::Index x = 0; x < layout.width; ++x) {
      const AxisSample& at = across[static_cast<std::size_t>(x)];
      pixel = lerp(line.col(at.lower), line.col(at.upper), at.weight);
      labels(y, x) = static_cast<int>(greatest_row(pixel));
    }
  }
  return labels;
}

}  // namespace detail

/// Reads projector and prototypes from a model file of smooseg (what `smooseg train` and `smooseg convert` write, or
/// `io::write_safetensors(path, io::tensors_of(*segmenter))`); the rest of the file, the backbone, is not read.
/// @throws std::invalid_argument naming the file and what is wrong with it.
template <class Scalar>
Head<Scalar> read_head(const std::string& path) {
  io::SafetensorsReader file(path);
  const auto shape_of = [&](const std::string& name) {
    if (!file.has(name)) {
      throw std::invalid_argument(path + ": no model of smooseg: it has no tensor '" + name + "'");
    }
    return file.shape(name);
  };
  const auto require = [&](bool fits, const std::string& name, const char* expected) {
    if (!fits) {
      throw std::invalid_argument(path + ": expected tensor '" + name + "' of shape " + expected + ", got " +
                                  io::detail::safetensors_shape(shape_of(name)));
    }
  };
  const auto matrix = [&](const std::string& name, bool is_convolution) -> Matrix<Scalar> {
    const std::vector<std::int64_t> shape = shape_of(name);
    const bool fits = is_convolution ? shape.size() == 4 && shape[2] == 1 && shape[3] == 1 : shape.size() == 2;
    require(fits, name, is_convolution ? "[rows, columns, 1, 1]" : "[rows, columns]");
    using RowMajor = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const std::vector<Scalar> values = file.values<Scalar>(name);
    return Eigen::Map<const RowMajor>(values.data(), shape[0], shape[1]);
  };
  const auto vector = [&](const std::string& name) -> Vector<Scalar> {
    const std::vector<std::int64_t> shape = shape_of(name);
    require(shape.size() == 1, name, "[size]");
    const std::vector<Scalar> values = file.values<Scalar>(name);
    return Eigen::Map<const Vector<Scalar>>(values.data(), shape[0]);
  };
  Head<Scalar> head;
  head.linear_weight = matrix("projector.linear.weight", true);
  head.linear_bias = vector("projector.linear.bias");
  head.hidden_weight = matrix("projector.mlp.0.weight", true);
  head.hidden_bias = vector("projector.mlp.0.bias");
  head.out_weight = matrix("projector.mlp.2.weight", true);
  head.out_bias = vector("projector.mlp.2.bias");
  head.teacher = matrix("predictor.teacher", false);
  detail::check_head(head, path);
  return head;
}

/// The code z of each patch, as `smooseg::Projector` computes it without dropout.
/// @param features x, (C,N), of any storage: an `Eigen::Map` over a backbone's output is not copied.
/// @return (D,N).
/// @throws std::invalid_argument for sizes that do not fit.
template <class Derived>
Matrix<typename Derived::Scalar> code(const Eigen::MatrixBase<Derived>& features,
                                      const Head<typename Derived::Scalar>& head) {
  using Scalar = typename Derived::Scalar;
  detail::check_head(head, "smooseg::eigen::code");
  if (features.size() == 0 || features.rows() != head.linear_weight.cols()) {
    detail::fail("code", "expected features of shape (C,N) with " + std::to_string(head.linear_weight.cols()) +
                             " channels and at least one patch, got " + detail::shape_of(features));
  }
  Matrix<Scalar> z(head.linear_weight.rows(), features.cols()), hidden;
  const Vector<Scalar> bias = head.linear_bias + head.out_bias;
  constexpr Eigen::Index kBlock = 256;  // patches whose hidden layer stays in cache
  for (Eigen::Index p = 0; p < features.cols(); p += kBlock) {
    const auto x = features.middleCols(p, std::min(kBlock, features.cols() - p));
    hidden.noalias() = head.hidden_weight * x;
    hidden.colwise() += head.hidden_bias;
    hidden.array() /= Scalar(1) + (-hidden.array()).exp();
    auto block = z.middleCols(p, x.cols());
    block.noalias() = head.linear_weight * x;
    block.noalias() += head.out_weight * hidden;
    block.colwise() += bias;
  }
  return z;
}

/// From features to labels: the code, upsampled bilinearly to the wanted size, and at each pixel the most similar of
/// the teacher's prototypes. The same labels as those of `smooseg::Segmenter`, to rounding.
/// @param features x, (C,N), as `code` takes them: a column a patch, in the order that the layout says.
/// @return labels of 0 to K - 1, (height, width).
/// @throws std::invalid_argument for sizes that do not fit, and for similarities that are not finite.
template <class Derived>
LabelMap segment(const Eigen::MatrixBase<Derived>& features, const Head<typename Derived::Scalar>& head,
                 const Layout& layout) {
  using Scalar = typename Derived::Scalar;
  detail::check_layout(layout, features.cols());
  // The arg max over classes is that of p_k . z, which is linear in z: upsampling K similarities instead of D channels
  // gives the same labels.
  const Matrix<Scalar> similarities = detail::unit_rows(head.teacher, "segment", "teacher") * code(features, head);
  if (!detail::is_finite(similarities.sum())) {
    detail::fail("segment", "the features or the head hold values that are not finite, or too large");
  }
  return detail::upsampled_labels(similarities, layout);
}

}  // namespace smooseg::eigen
