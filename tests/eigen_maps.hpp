#pragma once

// Between LibTorch's tensors and Eigen's maps, for tests of smooseg::eigen.

#include <torch/types.h>

#include <Eigen/Core>
#include <vector>

#include "smooseg/eigen/matrix.hpp"

/// The images (C,N) of a map (B,C,...).
template <class Scalar>
std::vector<smooseg::eigen::Matrix<Scalar>> maps_of(const torch::Tensor& map) {
  std::vector<smooseg::eigen::Matrix<Scalar>> maps;
  const torch::Tensor columns = map.detach().to(torch::kFloat64).flatten(2).transpose(1, 2).contiguous();  // (B,N,C)
  for (int64_t i = 0; i < columns.size(0); ++i) {
    const Eigen::Map<const Eigen::MatrixXd> image(columns[i].data_ptr<double>(), columns.size(2), columns.size(1));
    maps.push_back(image.cast<Scalar>());
  }
  return maps;
}

/// A matrix (rows, columns).
template <class Scalar>
smooseg::eigen::Matrix<Scalar> matrix_of(const torch::Tensor& matrix) {
  return maps_of<Scalar>(matrix.unsqueeze(0))[0];
}

/// A matrix or vector, in float64.
template <class Derived>
torch::Tensor torch_tensor_of(const Eigen::MatrixBase<Derived>& matrix) {
  const Eigen::MatrixXd columns = matrix.template cast<double>();
  return torch::from_blob(const_cast<double*>(columns.data()), {columns.cols(), columns.rows()}, torch::kFloat64)
      .t()
      .clone();
}
