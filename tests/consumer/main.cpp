// A user's program with the losses in it.

#include <cmath>
#include <cstdio>

#include "smooseg/loss.hpp"
#include "smooseg/version.hpp"

int main() {
  torch::manual_seed(0);
  const auto features = torch::randn({2, 8, 4, 4});
  const auto code = torch::randn({2, 6, 4, 4});

  smooseg::PrototypePredictor predictor(smooseg::PrototypePredictorOptions(3, 6));
  smooseg::EnergyLoss energy{smooseg::EnergyOptions()};
  const auto terms = energy(features, predictor(code), smooseg::functional::random_pairing(2));
  terms.total.backward();

  const double total = terms.total.item<double>();
  std::printf("smooseg %s, energy %f\n", SMOOSEG_VERSION, total);
  return std::isfinite(total) ? 0 : 1;
}
