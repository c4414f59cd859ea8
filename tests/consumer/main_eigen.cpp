// A user's program with the energy in it, without LibTorch.

#include <cmath>
#include <cstdio>
#include <vector>

#include "smooseg/eigen/energy.hpp"
#include "smooseg/eigen/segment.hpp"
#include "smooseg/version.hpp"

int main() {
  using Matrix = smooseg::eigen::Matrix<double>;
  const std::vector<Matrix> features{Matrix::Random(8, 16), Matrix::Random(8, 16)};
  const std::vector<Matrix> code{Matrix::Random(6, 16), Matrix::Random(6, 16)};
  const Matrix prototypes = Matrix::Random(3, 6);
  smooseg::eigen::EnergyGradient<double> gradient;
  const auto energy = smooseg::eigen::energy(features, code, prototypes, prototypes, {1, 0},
                                             smooseg::eigen::EnergyOptions(), &gradient);
  std::printf("smooseg %s, energy %f\n", SMOOSEG_VERSION, energy.total);
  return std::isfinite(energy.total) && gradient.code[0].norm() > 0 ? 0 : 1;
}
