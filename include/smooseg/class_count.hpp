#pragma once

// The number of classes K without labels.

#include <ATen/Functions.h>
#include <torch/arg.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "smooseg/baselines/kmeans.hpp"
#include "smooseg/detail/check.hpp"

namespace smooseg {

/// Options for `functional::class_count`.
struct ClassCountOptions {
  /// Clusters to begin with; several times as many as classes are expected. Default: 48
  TORCH_ARG(int64_t, num_clusters) = 48;

  /// How often patches are clustered, from other centres; the median of what each gives is taken. Default: 5
  TORCH_ARG(int64_t, repeats) = 5;

  /// The most passes of k-means over the patches. Default: 20
  TORCH_ARG(int64_t, iterations) = 20;
};

struct ClassCount {
  int64_t num_classes;        ///< what was chosen, at least 2
  std::vector<double> costs;  ///< entry i: what it costs to go from i + 2 classes to i + 1, the mean over the repeats
};

namespace functional {

/// What the smoothness energy says of joining classes, cheapest first.
///
/// With hard assignments Eq. 4 changes by n_a n_b (b - w_ab) for each order of the pair where classes a and b are joined:
/// w_ab is the mean closeness of their patches, b the threshold. Where b is the mean closeness that the members of a and
/// of b have among themselves (as `ThresholdController` has it), w = |m|^2 for a class with the mean m of unit vectors,
/// and the change is n_a n_b |m_a - m_b|^2 / 2, each class having half a say. Per patch of the joined class that is half
/// of Ward's criterion (1963), whose square root, a length, is the cost.
/// @param sums (K,C), floating: the sum of each class's unit vectors. @param sizes (K): their numbers, above 0.
/// @return K - 1 numbers; entry i: the cost of going from i + 2 classes to i + 1.
/// @throws c10::Error for other shapes.
inline std::vector<double> joining_costs(const Tensor& sums, const Tensor& sizes) {
  constexpr auto kName = "smooseg::functional::joining_costs";
  detail::check_floating(sums, kName, "sums");
  TORCH_CHECK(sums.dim() == 2 && sizes.dim() == 1 && sizes.size(0) == sums.size(0) && sums.size(0) >= 2, kName,
              ": expected sums (K,C) and sizes (K) of at least 2 classes, got ", detail::shape_of(sums), " and ",
              detail::shape_of(sizes));
  const torch::NoGradGuard no_grad;
  Tensor n = sizes.to(torch::kCPU, torch::kFloat64, /*non_blocking=*/false, /*copy=*/true);
  Tensor total = sums.to(torch::kCPU, torch::kFloat64, /*non_blocking=*/false, /*copy=*/true);
  std::vector<double> costs(static_cast<std::size_t>(sums.size(0) - 1));
  for (int64_t k = sums.size(0); k > 1; --k) {
    const Tensor mean = total / n.unsqueeze(1);
    const Tensor squares = (mean.unsqueeze(1) - mean.unsqueeze(0)).square().sum(2);
    const Tensor cost = n.unsqueeze(1) * n / (n.unsqueeze(1) + n) * squares / 2;
    cost.fill_diagonal_(std::numeric_limits<double>::infinity());
    const int64_t cheapest = cost.argmin().item<int64_t>(), a = cheapest / k, b = cheapest % k;
    costs[static_cast<std::size_t>(k - 2)] = std::sqrt(cost[a][b].item<double>());
    total[a] += total[b];
    n[a] += n[b];
    const Tensor kept = (at::arange(k) != b).nonzero().flatten();
    total = total.index_select(0, kept);
    n = n.index_select(0, kept);
  }
  return costs;
}

/// The knee of a curve of costs: two straight lines fit it best, one up to the knee and one beyond (the L method:
/// Salvador and Chan, ICTAI 2004).
/// @param costs of `joining_costs`, at least 4.
/// @return the number of classes where the first line ends.
/// @throws c10::Error for fewer costs.
inline int64_t knee_of(const std::vector<double>& costs) {
  const auto count = static_cast<int64_t>(costs.size());
  TORCH_CHECK(count >= 4, "smooseg::functional::knee_of: expected at least 4 costs, got ", count);
  // Root mean square of what the best line leaves of entries begin to end.
  const auto residual = [&](int64_t begin, int64_t end) {
    const auto n = static_cast<double>(end - begin);
    double x = 0, y = 0, xx = 0, xy = 0, yy = 0;
    for (int64_t i = begin; i < end; ++i) {
      const double u = static_cast<double>(i), v = costs[static_cast<std::size_t>(i)];
      x += u / n, y += v / n, xx += u * u / n, xy += u * v / n, yy += v * v / n;
    }
    const double slope = (xy - x * y) / (xx - x * x);
    return std::sqrt(std::max(0.0, yy - y * y - slope * (xy - x * y)));
  };
  int64_t knee = 2;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t first = 2; first + 2 <= count; ++first) {
    const double error =
        static_cast<double>(first) * residual(0, first) + static_cast<double>(count - first) * residual(first, count);
    if (error < least) least = error, knee = first + 1;  // entry first - 1 has first + 1 classes
  }
  return knee;
}

/// Chooses K: patches are divided into many clusters, these joined by what the smoothness energy says of it, and where
/// joining begins to be dear is the number of classes.
/// @param features (B,C,...), floating: a fair sample of all images, at least `num_clusters` patches.
/// @param generator source of randomness (CPU); the default one where none is given.
/// @throws c10::Error for other shapes or dtypes, too few patches, or options out of range.
inline ClassCount class_count(const Tensor& features, const ClassCountOptions& options = {},
                              std::optional<at::Generator> generator = {}) {
  constexpr auto kName = "smooseg::functional::class_count";
  detail::check_map(features, kName, "features", "(B,C,...)");
  TORCH_CHECK(options.num_clusters() >= 5 && options.repeats() >= 1 && options.iterations() >= 1, kName,
              ": expected at least 5 clusters, 1 repeat and 1 iteration, got ", options.num_clusters(), ", ",
              options.repeats(), " and ", options.iterations());
  const torch::NoGradGuard no_grad;
  const Tensor wide = features.detach().to(at::promote_types(torch::kFloat32, features.scalar_type()));
  const Tensor unit = wide / baselines::KMeans::norm(wide);
  const Tensor x = unit.flatten(2).transpose(1, 2).flatten(0, 1);  // (P,C)
  const int64_t clusters = options.num_clusters();
  ClassCount result{0, std::vector<double>(static_cast<std::size_t>(clusters - 1), 0)};
  std::vector<int64_t> knees;
  for (int64_t repeat = 0; repeat < options.repeats(); ++repeat) {
    baselines::KMeans kmeans(baselines::KMeansOptions(clusters).iterations(options.iterations()), generator);
    kmeans.fit(x);
    const Tensor nearest = kmeans.assign(x);
    const Tensor sums = at::zeros({clusters, x.size(1)}, x.options()).index_add_(0, nearest, x);
    const Tensor sizes = at::bincount(nearest, {}, clusters), used = sizes.gt(0).nonzero().flatten();
    const std::vector<double> costs = joining_costs(sums.index_select(0, used), sizes.index_select(0, used));
    knees.push_back(knee_of(costs));
    for (std::size_t i = 0; i < costs.size(); ++i) {
      result.costs[i] += costs[i] / static_cast<double>(options.repeats());
    }
  }
  const auto middle = knees.begin() + static_cast<std::ptrdiff_t>(knees.size() / 2);
  std::nth_element(knees.begin(), middle, knees.end());
  result.num_classes = *middle;
  return result;
}

}  // namespace functional
}  // namespace smooseg
