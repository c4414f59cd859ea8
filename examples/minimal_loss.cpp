// SmooSeg's losses in a training loop of one's own: everything but the features, which any frozen backbone may give.

#include <torch/optim/adam.h>

#include <iostream>
#include <smooseg/loss.hpp>
#include <smooseg/projector.hpp>

int main() {
  torch::manual_seed(0);
  const int64_t batch = 8, channels = 32, classes = 4, embed_dim = 16, side = 14;

  // Stands for a backbone's output: each patch shows one of four things, with noise. (B,C,h,w)
  const torch::Tensor things = torch::randn({classes, channels});
  const torch::Tensor truth =
      torch::randint(classes, {batch, side / 2, side / 2}).repeat_interleave(2, 1).repeat_interleave(2, 2);
  const torch::Tensor features =
      (things.index({truth}) + 0.5 * torch::randn({batch, side, side, channels})).permute({0, 3, 1, 2}).contiguous();

  smooseg::Projector projector(smooseg::ProjectorOptions(channels, embed_dim));
  smooseg::PrototypePredictor predictor(smooseg::PrototypePredictorOptions(classes, embed_dim).momentum(0.99));
  smooseg::EnergyLoss energy(smooseg::EnergyOptions::cityscapes());
  torch::optim::Adam projector_adam(projector->parameters(), 1e-3);
  torch::optim::Adam predictor_adam(predictor->parameters(), 5e-3);

  for (int step = 1; step <= 300; ++step) {
    const smooseg::ProjectorOutput projected = projector(features);
    const torch::Tensor pairing = smooseg::functional::random_pairing(batch);
    const smooseg::EnergyTerms e = energy(projected.features, predictor(projected.code), pairing);

    projector_adam.zero_grad();
    predictor_adam.zero_grad();
    e.total.backward();
    predictor->update_teacher();
    projector_adam.step();
    predictor_adam.step();
    if (step % 100 == 0) std::cout << "step " << step << "  energy " << e.total.item<double>() << "\n";
  }

  projector->eval();
  const torch::Tensor labels = predictor(projector(features).code).teacher.argmax(1);  // (B,h,w)
  // How pure the labels are: the share of patches in their label's most frequent thing.
  const torch::Tensor counts = torch::bincount((labels * classes + truth).flatten(), {}, classes * classes);
  const auto pure = std::get<0>(counts.view({classes, classes}).max(1)).sum().item<double>();
  std::cout << "purity " << pure / static_cast<double>(truth.numel()) << "\n";
}
