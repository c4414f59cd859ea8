// Closeness and penalty as matrices (Eqs. 2 and 3), forward and backward, and the distribution of the penalty.

#include "naive.hpp"
#include "smooseg/closeness.hpp"
#include "smooseg/penalty.hpp"
#include "support.hpp"

namespace {

/// @param matrix (B,P,Q) of two maps (B,C,N).
template <class Matrix>
void run(benchmark::State& state, const Matrix& matrix) {
  const int64_t b = state.range(0), n = state.range(1), c = state.range(2);
  const auto draw = [&] { return torch::rand({b, c, n}, bench::device()).requires_grad_(); };
  torch::Tensor x = draw(), y = draw();
  const torch::Tensor grad = torch::randn({b, n, n}, bench::device());
  const double pairs = static_cast<double>(b * n * n);
  bench::measure(state, {pairs * 6 * static_cast<double>(c), pairs * 3 * sizeof(float)}, [&] {
    x.mutable_grad().reset();
    y.mutable_grad().reset();
    matrix(x, y).backward(grad);
  });
}

void BM_Closeness(benchmark::State& state) {
  run(state, [](const auto& x, const auto& y) { return smooseg::functional::closeness(x, y); });
}

void BM_ClosenessNaive(benchmark::State& state) {
  run(state, [](const auto& x, const auto& y) { return naive::closeness(naive::unit(x), naive::unit(y)); });
}

void BM_LabelPenalty(benchmark::State& state) {
  run(state, [](const auto& x, const auto& y) { return smooseg::functional::label_penalty(x, y); });
}

void BM_LabelPenaltyNaive(benchmark::State& state) {
  run(state, [](const auto& x, const auto& y) { return naive::label_penalty(naive::unit(x), naive::unit(y)); });
}

/// samples 0: every pair.
void BM_PenaltyHistogram(benchmark::State& state) {
  const int64_t b = state.range(0), n = state.range(1), k = state.range(2), samples = state.range(3);
  const torch::Tensor a = at::softmax(torch::randn({b, k, n}, bench::device()), 1);
  const auto options = smooseg::PenaltyHistogramOptions().samples(samples);
  const double pairs = static_cast<double>(samples > 0 ? samples : b * n * n);
  bench::measure(state, {pairs * 2 * static_cast<double>(k), pairs * 2 * static_cast<double>(sizeof(int64_t))},
                 [&] { smooseg::functional::penalty_histogram(a, options); });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [] {
    const auto add = [](const char* name, void (*function)(benchmark::State&), int64_t channels) {
      const std::vector<std::string> names{"b", "n", "c"};
      bench::add(name, function, names)->Args({32, 784, channels})->Args({4, 1600, channels});
    };
    add("BM_Closeness", BM_Closeness, 384);
    add("BM_ClosenessNaive", BM_ClosenessNaive, 384);
    add("BM_LabelPenalty", BM_LabelPenalty, 27);
    add("BM_LabelPenaltyNaive", BM_LabelPenaltyNaive, 27);
    bench::add("BM_PenaltyHistogram", BM_PenaltyHistogram, {"b", "n", "k", "samples"})
        ->Args({4, 1600, 27, 0})
        ->Args({4, 1600, 27, 1000000});
  });
}
