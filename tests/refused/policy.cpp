// Must not compile: a policy whose `embed` is not const would be passed over in silence.

#include "smooseg/smoothness.hpp"

struct NotConst {
  torch::Tensor embed(const torch::Tensor& x) { return x; }
  torch::Tensor pairwise(const torch::Tensor& x, const torch::Tensor& y) const { return x.transpose(1, 2).matmul(y); }
};

int main() {
  smooseg::SmoothnessLoss loss(smooseg::SmoothnessOptions(), NotConst{});
  const torch::Tensor x = torch::ones({2, 3, 4});
  loss(x, x, torch::tensor({1, 0}));
}
