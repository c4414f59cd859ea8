// The energy and inference in Eigen alone, on one thread. The LibTorch form of the energy: bench_energy.cpp.

#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <cstddef>
#include <vector>

#include "smooseg/eigen/energy.hpp"
#include "smooseg/eigen/segment.hpp"

namespace {

using smooseg::eigen::Matrix;

constexpr Eigen::Index kEmbedDim = 64;

template <class Scalar>
void BM_EigenEnergy(benchmark::State& state) {
  const auto batch = static_cast<std::size_t>(state.range(0));
  std::vector<Matrix<Scalar>> features, code;
  std::vector<int> pairing;
  for (std::size_t i = 0; i < batch; ++i) {
    features.push_back(Matrix<Scalar>::Random(state.range(2), state.range(1)));
    code.push_back(Matrix<Scalar>::Random(kEmbedDim, state.range(1)));
    pairing.push_back(static_cast<int>((i + 1) % batch));
  }
  const Matrix<Scalar> prototypes = Matrix<Scalar>::Random(state.range(3), kEmbedDim);
  smooseg::eigen::EnergyGradient<Scalar> gradient;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        smooseg::eigen::energy(features, code, prototypes, prototypes, pairing, {}, &gradient).total);
  }
}

/// A picture of 8 x 8 patches.
template <class Scalar>
void BM_EigenSegment(benchmark::State& state) {
  const Eigen::Index patches = state.range(0), channels = state.range(1), classes = state.range(2);
  smooseg::eigen::Head<Scalar> head;
  head.linear_weight = Matrix<Scalar>::Random(kEmbedDim, channels);
  head.linear_bias.setZero(kEmbedDim);
  head.hidden_weight = Matrix<Scalar>::Random(channels, channels) / static_cast<Scalar>(channels);
  head.hidden_bias.setZero(channels);
  head.out_weight = Matrix<Scalar>::Random(kEmbedDim, channels);
  head.out_bias.setZero(kEmbedDim);
  head.teacher = Matrix<Scalar>::Random(classes, kEmbedDim);
  const Matrix<Scalar> features = Matrix<Scalar>::Random(channels, patches * patches);
  smooseg::eigen::Layout layout;
  layout.rows = layout.columns = patches;
  layout.height = layout.width = 8 * patches;
  for (auto _ : state) benchmark::DoNotOptimize(smooseg::eigen::segment(features, head, layout).data());
}

BENCHMARK_TEMPLATE(BM_EigenEnergy, float)
    ->ArgNames({"b", "n", "c", "k"})
    ->Args({32, 784, 384, 27})
    ->Args({4, 3600, 384, 27})
    ->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(BM_EigenEnergy, double)
    ->ArgNames({"b", "n", "c", "k"})
    ->Args({32, 784, 384, 27})
    ->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(BM_EigenSegment, float)
    ->ArgNames({"side", "c", "k"})
    ->Args({28, 384, 27})
    ->Args({40, 384, 27})
    ->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
