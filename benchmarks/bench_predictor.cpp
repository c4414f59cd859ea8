// The predictor (Eq. 5) and the data term (Eq. 6), forward and backward.

#include "naive.hpp"
#include "smooseg/data_term.hpp"
#include "smooseg/predictor.hpp"
#include "support.hpp"

namespace {

/// @param forward logits of (predictor, code).
template <class Forward>
void run_predictor(benchmark::State& state, const Forward& forward) {
  const int64_t b = state.range(0), n = state.range(1), d = state.range(2), k = state.range(3);
  smooseg::PrototypePredictor predictor(k, d);
  predictor->to(bench::device());
  torch::Tensor code = torch::randn({b, d, n}, bench::device()).requires_grad_();
  const torch::Tensor grad = torch::randn({b, k, n}, bench::device());
  const auto elements = static_cast<double>(b * n * d);
  bench::measure(state, {elements * 8 * static_cast<double>(k), elements * 5 * sizeof(float)}, [&] {
    predictor->zero_grad();
    code.mutable_grad().reset();
    const smooseg::PrototypeLogits y = forward(predictor, code);
    torch::autograd::backward({y.student, y.teacher}, {grad, grad});
  });
}

void BM_Predictor(benchmark::State& state) {
  run_predictor(state, [](auto& predictor, const auto& code) { return predictor(code); });
}

void BM_PredictorNaive(benchmark::State& state) {
  run_predictor(state, [](auto& predictor, const auto& code) { return naive::predictor(predictor, code); });
}

/// @param term of the logits.
template <class Term>
void run_data_term(benchmark::State& state, const Term& term) {
  const auto draw = [&] {
    return torch::rand({state.range(0), state.range(2), state.range(1)}, bench::device()) * 2 - 1;
  };
  smooseg::PrototypeLogits logits{draw().requires_grad_(), draw()};
  const auto elements = static_cast<double>(logits.student.numel());
  bench::measure(state, {elements * 4, elements * 4 * sizeof(float)}, [&] {
    logits.student.mutable_grad().reset();
    term(logits).backward();
  });
}

void BM_DataTerm(benchmark::State& state) {
  run_data_term(state, [](const auto& y) { return smooseg::functional::data_term(y.student, y.teacher); });
}

void BM_DataTermNaive(benchmark::State& state) {
  run_data_term(state, [](const auto& y) { return naive::data_term(y); });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [] {
    const auto add_predictor = [](const char* name, void (*function)(benchmark::State&)) {
      bench::add(name, function, {"b", "n", "d", "k"})->Args({32, 784, 64, 27})->Args({4, 3600, 64, 27});
    };
    const auto add_term = [](const char* name, void (*function)(benchmark::State&)) {
      bench::add(name, function, {"b", "n", "k"})->Args({32, 784, 27})->Args({4, 3600, 27});
    };
    add_predictor("BM_Predictor", BM_Predictor);
    add_predictor("BM_PredictorNaive", BM_PredictorNaive);
    add_term("BM_DataTerm", BM_DataTerm);
    add_term("BM_DataTermNaive", BM_DataTermNaive);
  });
}
