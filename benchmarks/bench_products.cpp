// The kernels below the losses beside LibTorch's operators, in the products that the smoothness term consists of.

#include "smooseg/detail/autograd/unit_vectors.hpp"
#include "smooseg/detail/kernels/products.hpp"
#include "support.hpp"

namespace {

struct Problem {
  explicit Problem(const benchmark::State& state)
      : x(torch::randn({state.range(0), state.range(2), state.range(1)}, bench::device())),
        labels(torch::randn({state.range(0), state.range(3), state.range(1)}, bench::device())),
        moments(torch::randn({state.range(0), state.range(3), state.range(2)}, bench::device())) {}

  bench::Work product() const {
    const auto elements = static_cast<double>(x.numel());
    return {elements * 2 * static_cast<double>(labels.size(1)), elements * sizeof(float)};
  }
  bench::Work pass() const {
    const auto elements = static_cast<double>(x.numel());
    return {elements * 2, elements * sizeof(float)};
  }

  torch::Tensor x, labels, moments;  // (B,C,N), (B,K,N), (B,K,C)
};

void BM_LabelsTimesFeatures(benchmark::State& state) {
  const Problem p(state);
  bench::measure(state, p.product(), [&] { smooseg::detail::batched_product(p.labels, p.x.transpose(1, 2)); });
}

void BM_LabelsTimesFeaturesNaive(benchmark::State& state) {
  const Problem p(state);
  bench::measure(state, p.product(), [&] { p.labels.bmm(p.x.transpose(1, 2)); });
}

void BM_MomentsTimesFeatures(benchmark::State& state) {
  const Problem p(state);
  bench::measure(state, p.product(), [&] { smooseg::detail::batched_product(p.moments, p.x); });
}

void BM_MomentsTimesFeaturesNaive(benchmark::State& state) {
  const Problem p(state);
  bench::measure(state, p.product(), [&] { p.moments.bmm(p.x); });
}

void BM_InverseNorms(benchmark::State& state) {
  const Problem p(state);
  bench::measure(state, p.pass(), [&] { smooseg::detail::inverse_norms(p.x, 1e-10); });
}

void BM_InverseNormsNaive(benchmark::State& state) {
  const Problem p(state);
  bench::measure(state, p.pass(), [&] { p.x.norm(2, {1}, true).clamp_min(1e-10).reciprocal(); });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [] {
    const auto add = [](const char* name, void (*function)(benchmark::State&)) {
      bench::add(name, function, {"b", "n", "c", "k"})
          ->Args({32, 784, 384, 27})
          ->Args({4, 3600, 384, 27})
          ->Args({4, 14400, 384, 27});
    };
    add("BM_LabelsTimesFeatures", BM_LabelsTimesFeatures);
    add("BM_LabelsTimesFeaturesNaive", BM_LabelsTimesFeaturesNaive);
    add("BM_MomentsTimesFeatures", BM_MomentsTimesFeatures);
    add("BM_MomentsTimesFeaturesNaive", BM_MomentsTimesFeaturesNaive);
    add("BM_InverseNorms", BM_InverseNorms);
    add("BM_InverseNormsNaive", BM_InverseNormsNaive);
  });
}
