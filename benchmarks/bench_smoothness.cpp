// The smoothness term (Eq. 4), forward and backward from the assignments, in its forms and against its textbook form,
// over the number of patches.

#include "naive.hpp"
#include "smooseg/smoothness.hpp"
#include "support.hpp"

namespace {

struct Problem {
  explicit Problem(const benchmark::State& state, torch::ScalarType dtype = torch::kFloat32)
      : b(state.range(0)),
        n(state.range(1)),
        c(state.range(2)),
        k(state.range(3)),
        features(torch::randn({b, c, n}, bench::device()).to(dtype)),
        assignments(at::softmax(3 * torch::randn({b, k, n}, bench::device()), 1).requires_grad_()),
        pairing(smooseg::functional::random_pairing(b).to(bench::device())) {}

  /// Three passes over the features: norms, the product forward, the product backward.
  bench::Work factorized() const {
    const auto patches = static_cast<double>(b * n), channels = static_cast<double>(c);
    return {patches * 2 * channels * static_cast<double>(2 * k + 2),
            3 * patches * channels * static_cast<double>(features.element_size())};
  }
  /// W and delta of both halves, written and read once.
  bench::Work pairwise() const {
    const double pairs = 2.0 * static_cast<double>(b * n * n);
    return {pairs * static_cast<double>(2 * c + 6 * k), pairs * 4 * sizeof(float)};
  }

  int64_t b, n, c, k;
  torch::Tensor features, assignments, pairing;
};

template <class Value>
void run(benchmark::State& state, Problem& problem, const bench::Work& work, const Value& value) {
  bench::measure(state, work, [&] {
    problem.assignments.mutable_grad().reset();
    problem.features.mutable_grad().reset();
    value().backward();
  });
}

template <class Loss>
void run_loss(benchmark::State& state, Problem& p, const bench::Work& work, Loss loss) {
  run(state, p, work, [&] { return loss(p.features, p.assignments, p.pairing).total(); });
}

void BM_Smoothness(benchmark::State& state) {
  Problem p(state);
  run_loss(state, p, p.factorized(), smooseg::SmoothnessLoss());
}

void BM_SmoothnessBFloat16(benchmark::State& state) {
  Problem p(state, torch::kBFloat16);
  run_loss(state, p, p.factorized(), smooseg::SmoothnessLoss());
}

void BM_SmoothnessFeatureGradient(benchmark::State& state) {
  Problem p(state);
  p.features.requires_grad_();
  run_loss(state, p, p.factorized(), smooseg::SmoothnessLoss());
}

void BM_SmoothnessPairwise(benchmark::State& state) {
  Problem p(state);
  run_loss(state, p, p.pairwise(),
           smooseg::SmoothnessLoss(smooseg::SmoothnessOptions().evaluation(smooseg::Evaluation::kPairwise)));
}

void BM_SmoothnessBilateral(benchmark::State& state) {
  Problem p(state);
  run_loss(state, p, p.pairwise(), smooseg::SmoothnessLoss<smooseg::BilateralCloseness>(smooseg::SmoothnessOptions()));
}

void BM_SmoothnessNaive(benchmark::State& state) {
  Problem p(state);
  const smooseg::SmoothnessOptions options;
  run(state, p, p.pairwise(), [&] { return naive::smoothness(p.features, p.assignments, p.pairing, options); });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [] {
    const auto add = [](const char* name, void (*function)(benchmark::State&), std::vector<int64_t> patches) {
      auto* benchmark = bench::add(name, function, {"b", "n", "c", "k"})->Args({32, 784, 384, 27});
      for (const int64_t n : patches) benchmark->Args({4, n, 384, 27});
      return benchmark;
    };
    const std::vector<int64_t> some{784, 1600, 3600}, many{196, 784, 1600, 3600, 6400, 14400};
    add("BM_Smoothness", BM_Smoothness, many)->Args({1, 65536, 384, 27});
    add("BM_SmoothnessNaive", BM_SmoothnessNaive, {196, 784, 1600, 3600, 6400});
    add("BM_SmoothnessBFloat16", BM_SmoothnessBFloat16, some);
    add("BM_SmoothnessFeatureGradient", BM_SmoothnessFeatureGradient, some);
    add("BM_SmoothnessPairwise", BM_SmoothnessPairwise, {784, 1600});
    add("BM_SmoothnessBilateral", BM_SmoothnessBilateral, {784, 1600});
  });
}
