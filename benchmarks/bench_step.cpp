// A step of training on features that are there already: projector, predictor, energy, backward, Adam, teacher.

#include <torch/nn/functional/dropout.h>
#include <torch/optim/adam.h>

#include "naive.hpp"
#include "smooseg/projector.hpp"
#include "support.hpp"

namespace {

/// The paper's heads and optimiser.
struct Heads {
  Heads(int64_t c, int64_t d, int64_t k)
      : projector(c, d), predictor(smooseg::PrototypePredictorOptions(k, d).momentum(0.998)), adam(groups()) {
    projector->to(bench::device());
    predictor->to(bench::device());
  }

  std::vector<torch::optim::OptimizerParamGroup> groups() {
    const auto group = [](torch::nn::Module& module, double rate) {
      return torch::optim::OptimizerParamGroup(module.parameters(), std::make_unique<torch::optim::AdamOptions>(rate));
    };
    return {group(*projector, 1e-4), group(*predictor, 5e-4)};
  }

  smooseg::Projector projector;
  smooseg::PrototypePredictor predictor;
  torch::optim::Adam adam;
};

/// @param energy Eq. 7 of (heads, features, pairing), as a scalar.
template <class Energy>
void run(benchmark::State& state, const Energy& energy) {
  const int64_t b = state.range(0), n = state.range(1), c = state.range(2), d = 64, k = 27;
  torch::manual_seed(0);
  Heads heads(c, d, k);
  const int64_t rows = 28;
  const torch::Tensor features = torch::randn({b, c, rows, n / rows}, bench::device());
  const torch::Tensor pairing = torch::arange(1, b + 1, bench::device()).remainder(b);
  // Forward: three 1x1 convolutions, prototypes, moments. Backward: their weights' gradients and, but for the first
  // layers, their inputs'.
  const auto patches = static_cast<double>(b * n);
  const double layers = static_cast<double>(2 * c * d + c * c), prototypes = static_cast<double>(2 * k * d),
               moments = static_cast<double>((k + 1) * c);
  const double operations = 2 * patches * (2 * layers + static_cast<double>(c * d) + 2 * prototypes + 2 * moments);
  bench::measure(state, {operations, patches * static_cast<double>(c) * sizeof(float)}, [&] {
    heads.adam.zero_grad();
    energy(heads, features, pairing).backward();
    heads.adam.step();
    heads.predictor->update_teacher();
  });
}

void BM_Step(benchmark::State& state) {
  smooseg::EnergyLoss loss;
  run(state, [&](Heads& heads, const torch::Tensor& features, const torch::Tensor& pairing) {
    const smooseg::ProjectorOutput projected = heads.projector(features);
    return loss(projected.features, heads.predictor(projected.code), pairing).total;
  });
}

void BM_StepNaive(benchmark::State& state) {
  run(state, [](Heads& heads, const torch::Tensor& features, const torch::Tensor& pairing) {
    const auto dropped = [&] {
      return torch::nn::functional::dropout2d(features, torch::nn::functional::Dropout2dFuncOptions().p(0.2));
    };
    const torch::Tensor code = heads.projector->linear(dropped()) + heads.projector->mlp->forward(dropped());
    return naive::energy(dropped(), naive::predictor(heads.predictor, code.flatten(2)), pairing, {});
  });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [] {
    bench::add("BM_Step", BM_Step, {"b", "n", "c"})->Args({32, 784, 384});
    bench::add("BM_StepNaive", BM_StepNaive, {"b", "n", "c"})->Args({32, 784, 384});
  });
}
