// The whole energy (Eqs. 4 to 7), forward and backward from the code, beside its textbook form.

#include "naive.hpp"
#include "smooseg/loss.hpp"
#include "support.hpp"

namespace {

constexpr int64_t kEmbedDim = 64;

struct Problem {
  Problem(const benchmark::State& state, torch::ScalarType dtype)
      : b(state.range(0)),
        n(state.range(1)),
        c(state.range(2)),
        k(state.range(3)),
        features(torch::randn({b, c, n}, bench::device()).to(dtype)),
        code(torch::randn({b, kEmbedDim, n}, bench::device()).to(dtype).requires_grad_()),
        predictor(k, kEmbedDim),
        pairing(smooseg::functional::random_pairing(b).to(bench::device())) {
    predictor->to(bench::device());
  }

  int64_t b, n, c, k;
  torch::Tensor features, code;
  smooseg::PrototypePredictor predictor;
  torch::Tensor pairing;
};

/// @param total energy of the problem, from its code.
template <class Energy>
void run(benchmark::State& state, Problem& problem, const bench::Work& work, const Energy& total) {
  bench::measure(state, work, [&] {
    problem.predictor->zero_grad();
    problem.code.mutable_grad().reset();
    total().backward();
  });
}

/// Three passes over the features: norms, the product forward, the product backward; and the predictor's products.
template <torch::ScalarType dtype>
void BM_Energy(benchmark::State& state) {
  Problem p(state, dtype);
  smooseg::EnergyLoss energy;
  const auto patches = static_cast<double>(p.b * p.n), c = static_cast<double>(p.c), k = static_cast<double>(p.k);
  const double element = static_cast<double>(p.features.element_size());
  run(state, p, {patches * (2 * c * (2 * k + 2) + 2 * kEmbedDim * 4 * k), 3 * patches * c * element},
      [&] { return energy(p.features, p.predictor(p.code), p.pairing).total; });
}

/// W and delta of both halves, written and read once.
template <torch::ScalarType dtype>
void BM_EnergyNaive(benchmark::State& state) {
  Problem p(state, dtype);
  const auto pairs = 2.0 * static_cast<double>(p.b * p.n * p.n);
  const smooseg::EnergyOptions options;
  run(state, p,
      {pairs * static_cast<double>(2 * p.c + 6 * p.k), pairs * 4 * static_cast<double>(p.features.element_size())},
      [&] { return naive::energy(p.features, naive::predictor(p.predictor, p.code), p.pairing, options); });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [] {
    const auto add = [](const char* name, void (*function)(benchmark::State&)) {
      auto* benchmark = bench::add(name, function, {"b", "n", "c", "k"});
      benchmark->Args({32, 784, 384, 27})->Args({4, 3600, 384, 27});
      if (bench::device().is_cuda()) benchmark->Args({8, 6400, 384, 27});
      return benchmark;
    };
    add("BM_Energy", BM_Energy<torch::kFloat32>)->Args({4, 784, 384, 27})->Args({4, 14400, 384, 27});
    add("BM_EnergyNaive", BM_EnergyNaive<torch::kFloat32>);
    add("BM_EnergyBFloat16", BM_Energy<torch::kBFloat16>);
    // The textbook form multiplies half precision as it comes, for which a CPU would take minutes.
    if (bench::device().is_cuda()) add("BM_EnergyBFloat16Naive", BM_EnergyNaive<torch::kBFloat16>);
  });
}
