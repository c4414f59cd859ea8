#include "model/criteria.hpp"

#include <cmath>
#include <tuple>

#include "smooseg/closeness.hpp"

namespace smooseg::app {
namespace {

double mean_of(const Tensor& values) {
  return values.mean(torch::kFloat64).item<double>();
}

/// Of all pairs of neighbours, across and down, the share that is of one class.
double neighbours_alike(const Tensor& classes) {
  const auto alike = [&](int64_t dim) {
    const int64_t last = classes.size(dim) - 1;
    return classes.narrow(dim, 0, last).eq(classes.narrow(dim, 1, last)).flatten();
  };
  return mean_of(torch::cat({alike(1), alike(2)}));
}

}  // namespace

PartitionCriteria partition_criteria(const Tensor& features, const Tensor& classes, int64_t num_classes) {
  TORCH_CHECK(features.dim() == 4 && classes.dim() == 3 && features.size(0) == classes.size(0) &&
                  features.sizes().slice(2) == classes.sizes().slice(1) && num_classes >= 2,
              "partition_criteria: expected features (M,C,h,w), classes (M,h,w) and at least 2 classes, got ",
              features.sizes(), ", ", classes.sizes(), " and ", num_classes);
  const torch::NoGradGuard no_grad;
  const Tensor x = CosineCloseness{}.embed(features.flatten(2));                           // (M,C,N)
  const Tensor member = at::one_hot(classes.flatten(1), num_classes).to(x.scalar_type());  // (M,N,K)
  const Tensor sizes = member.sum(torch::IntArrayRef{0, 1}, /*keepdim=*/false, torch::kFloat64).to(torch::kCPU);  // (K)
  const Tensor sums = at::bmm(x, member).sum(0).to(torch::kCPU, torch::kFloat64);  // (C,K)
  const double count = static_cast<double>(classes.numel());
  const Tensor shares = sizes / count;

  PartitionCriteria result;
  result.classes_in_use = shares.ge(0.05 / static_cast<double>(num_classes)).sum().item<int64_t>();
  result.entropy = -at::xlogy(shares, shares).sum().item<double>() / std::log(static_cast<double>(num_classes));
  const double chance = shares.square().sum().item<double>();
  if (chance < 1) result.agreement = (neighbours_alike(classes) - chance) / (1 - chance);
  const double common = sums.sum(1).square().sum().item<double>() / (count * count);
  const Tensor used = sizes.clamp_min(1);
  const double explained = (sums.square().sum(0) / used).sum().item<double>() / count;
  if (common < 1) result.between = (explained - common) / (1 - common);

  if (result.classes_in_use < 2) return result;
  // The mean distance from the members of a class is the distance from the mean of their unit vectors.
  const Tensor means = (sums / used).t().to(x.options());  // (K,C)
  const Tensor absent = sizes.eq(0).to(x.device()).view({1, -1, 1});
  double total = 0;
  for (int64_t i = 0; i < x.size(0); ++i) {
    const Tensor distance = (1 - at::matmul(means, x[i])).unsqueeze(0).masked_fill(absent, INFINITY);  // (1,K,N)
    const Tensor own = classes[i].flatten().view({1, 1, -1});
    const Tensor a = distance.gather(1, own);
    const Tensor b = std::get<0>(distance.scatter(1, own, INFINITY).min(1, /*keepdim=*/true));
    total += ((b - a) / at::maximum(a, b).clamp_min(1e-12)).sum(torch::kFloat64).item<double>();
  }
  result.silhouette = total / count;
  return result;
}

}  // namespace smooseg::app
