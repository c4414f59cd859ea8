#pragma once

// What the energy and inference do with each patch's vector, a column of a map. For any scalar that Eigen takes.

#include <Eigen/Core>
#include <cmath>
#include <stdexcept>
#include <string>

#include "smooseg/eigen/matrix.hpp"
#include "smooseg/options.hpp"

namespace smooseg::eigen::detail {

template <class Scalar>
using Row = Eigen::Matrix<Scalar, 1, Eigen::Dynamic>;

[[noreturn]] inline void fail(const char* function, const std::string& problem) {
  throw std::invalid_argument(std::string("smooseg::eigen::") + function + ": " + problem);
}

/// "(384, 784)".
template <class Derived>
std::string shape_of(const Eigen::MatrixBase<Derived>& m) {
  return "(" + std::to_string(m.rows()) + ", " + std::to_string(m.cols()) + ")";
}

/// Whether it is neither NaN nor infinite, of a scalar of any type.
template <class Scalar>
bool is_finite(const Scalar& x) {
  return x - x == Scalar(0);
}

/// 1 / max(|x_p|, kNormEps) of each column.
/// @throws std::invalid_argument naming `argument` where a column's square is not finite.
template <class Derived>
Row<typename Derived::Scalar> inverse_norms(const Eigen::MatrixBase<Derived>& x, const char* function,
                                            const std::string& argument) {
  using std::sqrt;
  using Scalar = typename Derived::Scalar;
  const auto eps = static_cast<Scalar>(kNormEps);
  Row<Scalar> scales = x.colwise().squaredNorm();
  for (Eigen::Index p = 0; p < scales.size(); ++p) {
    if (!is_finite(scales(p))) {
      fail(function, "expected " + argument +
                         " to be finite, and so the squares of its vectors' norms; that of vector " +
                         std::to_string(p) + " is not");
    }
    const Scalar norm = sqrt(scales(p));
    scales(p) = Scalar(1) / (norm > eps ? norm : eps);
  }
  return scales;
}

/// The gradient of u_p = scale_p x_p, with the scales of `inverse_norms`, from that to u: `grad` becomes that to x.
template <class Scalar>
void unit_backward(const Matrix<Scalar>& x, const Row<Scalar>& scales, Matrix<Scalar>& grad) {
  for (Eigen::Index p = 0; p < x.cols(); ++p) {
    const Scalar& scale = scales(p);
    if (scale < Scalar(1 / kNormEps)) {  // else the norm is a constant
      const Scalar along = x.col(p).cwiseProduct(grad.col(p)).sum();
      grad.col(p) -= x.col(p) * (scale * scale * along);
    }
    grad.col(p) *= scale;
  }
}

/// Turns each column x_p into softmax(scale x_p). @return log(sum_k exp(scale x_kp)) of each column.
template <class Scalar>
Row<Scalar> softmax_columns(Matrix<Scalar>& x, const Scalar& scale) {
  const Row<Scalar> greatest = x.colwise().maxCoeff();
  x.rowwise() -= greatest;
  x.array() = (x.array() * scale).exp();
  const Row<Scalar> sums = x.colwise().sum();
  x.array().rowwise() *= sums.cwiseInverse().eval().array();
  return sums.array().log().matrix() + scale * greatest;
}

/// The gradient of a = softmax(scale x), column by column, from that to a: `grad` becomes that to x.
template <class Scalar>
void softmax_backward(const Matrix<Scalar>& a, const Scalar& scale, Matrix<Scalar>& grad) {
  const Row<Scalar> means = a.cwiseProduct(grad).colwise().sum();
  grad.rowwise() -= means;
  grad.array() *= scale * a.array();
}

/// The row of the greatest element, of equal ones the first.
template <class Derived>
Eigen::Index greatest_row(const Eigen::MatrixBase<Derived>& column) {
  Eigen::Index best = 0;
  for (Eigen::Index k = 1; k < column.size(); ++k) {
    if (column(k) > column(best)) best = k;
  }
  return best;
}

/// Rows of length 1. @param prototypes (K,D).
template <class Scalar>
Matrix<Scalar> unit_rows(const Matrix<Scalar>& prototypes, const char* function, const std::string& argument) {
  const Row<Scalar> scales = inverse_norms(prototypes.transpose(), function, argument);
  return scales.asDiagonal() * prototypes;
}

}  // namespace smooseg::eigen::detail
