// Must not compile: a policy whose `embed` is not const, or takes its tensor by reference to one that it could change,
// would be passed over in silence.

#include "smooseg/smoothness.hpp"

struct Policy {
#ifdef TENSOR_BY_REFERENCE
  torch::Tensor embed(torch::Tensor& x) const {
    return x;
  }
#else
  torch::Tensor embed(const torch::Tensor& x) {
    return x;
  }
#endif
  torch::Tensor pairwise(const torch::Tensor& x, const torch::Tensor& y) const {
    return x.transpose(1, 2).matmul(y);
  }
};

int main() {
  smooseg::SmoothnessLoss loss(smooseg::SmoothnessOptions(), Policy{});
  const torch::Tensor x = torch::ones({2, 3, 4});
  loss(x, x, torch::tensor({1, 0}));
}
