// The energy, forward and backward from the code, beside its textbook form.

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <thread>

#include "naive.hpp"
#include "smooseg/loss.hpp"

namespace {

struct Problem {
  explicit Problem(const benchmark::State& state)
      : features(torch::randn({state.range(0), state.range(2), state.range(1)})),
        code(torch::randn({state.range(0), 64, state.range(1)}).requires_grad_()),
        predictor(state.range(3), 64),
        pairing(smooseg::functional::random_pairing(state.range(0))) {}

  torch::Tensor features, code;
  smooseg::PrototypePredictor predictor;
  torch::Tensor pairing;
  smooseg::EnergyOptions options;
};

template <class Energy>
void run(benchmark::State& state, const Problem& problem, Energy energy) {
  smooseg::PrototypePredictor predictor = problem.predictor;
  torch::Tensor code = problem.code;
  for (auto _ : state) {
    predictor->zero_grad();
    code.mutable_grad().reset();
    energy(predictor(code)).backward();
  }
  // Bytes of features that any form must read at least once.
  state.SetBytesProcessed(state.iterations() * problem.features.numel() * static_cast<int64_t>(sizeof(float)));
}

void BM_Energy(benchmark::State& state) {
  const Problem problem(state);
  smooseg::EnergyLoss energy(problem.options);
  run(state, problem,
      [&](const smooseg::PrototypeLogits& logits) { return energy(problem.features, logits, problem.pairing).total; });
}

void BM_EnergyNaive(benchmark::State& state) {
  const Problem problem(state);
  run(state, problem, [&](const smooseg::PrototypeLogits& logits) {
    return naive::energy(problem.features, logits, problem.pairing, problem.options);
  });
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"b", "n", "c", "k"})
      ->Args({32, 784, 384, 27})
      ->Args({4, 3600, 384, 27})
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
}

BENCHMARK(BM_Energy)->Apply(sizes);
BENCHMARK(BM_EnergyNaive)->Apply(sizes);

}  // namespace

int main(int argc, char** argv) {
  at::set_num_threads(static_cast<int>(std::thread::hardware_concurrency()));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
