// The whole energy with a closeness of one's own: patches are close where their features are, and where they are
// neighbours. An `embed` policy is an inner product of embeddings, so that the energy stays linear in time.

#include <cmath>
#include <iostream>
#include <smooseg/loss.hpp>

/// (cos(x_p, x_q) + exp(-|p - q|^2 / (2 bandwidth^2))) / 2, the Gaussian by random Fourier features (Rahimi and Recht,
/// 2007): exp(-|d|^2 / 2) is the mean of cos(w . d) over normal vectors w.
struct CosineAndPlaces {
  int64_t height, width;
  torch::Tensor frequencies = torch::randn({32, 2}) / 4;  // of a bandwidth of 4 patches

  /// @param x (B,C,N), the patches of whole maps, row by row. @return (B,D,N).
  torch::Tensor embed(const torch::Tensor& x) const {
    const torch::Tensor rows = torch::arange(height, x.options()).repeat_interleave(width);
    const torch::Tensor columns = torch::arange(width, x.options()).repeat({height});
    const torch::Tensor phases = frequencies.to(x.options()).matmul(torch::stack({rows, columns}));  // (32,N)
    const torch::Tensor places = torch::cat({phases.cos(), phases.sin()}) / std::sqrt(32.0);
    const torch::Tensor features = smooseg::CosineCloseness().embed(x);
    return torch::cat({features, places.expand({x.size(0), -1, -1})}, 1) / std::sqrt(2.0);
  }
};

int main() {
  torch::manual_seed(0);
  const int64_t batch = 4, channels = 16, classes = 5, embed_dim = 8, side = 12;
  const torch::Tensor features = torch::randn({batch, channels, side, side});
  const torch::Tensor code = torch::randn({batch, embed_dim, side, side}).requires_grad_();

  smooseg::PrototypePredictor predictor(classes, embed_dim);
  smooseg::EnergyLoss energy(smooseg::EnergyOptions().temperature(0.2), CosineAndPlaces{side, side});
  const smooseg::EnergyTerms e = energy(features, predictor(code), smooseg::functional::random_pairing(batch));
  e.total.backward();
  std::cout << "energy " << e.total.item<double>() << ", gradient of the code " << code.grad().norm().item<double>()
            << "\n";
}
