#include "report/projection.hpp"

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/parallel.hpp"

namespace smooseg::app {
namespace {

using Plane = std::array<double, 2>;

void check_points(const Tensor& points, const char* function) {
  smooseg::detail::check_defined(points, function, "points");
  TORCH_CHECK(points.dim() == 2 && points.size(0) >= 1 && points.size(1) >= 1 && points.is_floating_point(), function,
              ": expected points of shape (N,D), floating, got ", smooseg::detail::shape_of(points), ", ",
              points.scalar_type());
  TORCH_CHECK(std::isfinite(points.abs().sum().item<double>()), function, ": expected points that are finite");
}

/// One row of the conditional probabilities p(j|i): a Gaussian of squared distances whose perplexity is as wanted.
void fill_row(const float* squared, std::size_t count, std::size_t self, double perplexity, float* row) {
  const double wanted = std::log(perplexity);
  float nearest = INFINITY;
  for (std::size_t j = 0; j < count; ++j) {
    if (j != self) nearest = std::min(nearest, squared[j]);
  }
  double precision = 1, low = 0, high = INFINITY;
  for (int step = 0; step < 60; ++step) {
    double sum = 0, weighted = 0;
    for (std::size_t j = 0; j < count; ++j) {
      const double distance = squared[j] - nearest;
      const double p = j == self ? 0 : std::exp(-precision * distance);
      row[j] = static_cast<float>(p);
      sum += p;
      weighted += p * distance;
    }
    const double entropy = std::log(sum) + precision * weighted / sum;
    for (std::size_t j = 0; j < count; ++j) row[j] = static_cast<float>(row[j] / sum);
    if (std::abs(entropy - wanted) < 1e-4) return;
    (entropy > wanted ? low : high) = precision;
    precision = std::isinf(high) ? 2 * precision : (low + high) / 2;
  }
}

/// What pulls a point towards its neighbours and what pushes it from all others, before the latter is divided by the sum
/// of all weights.
struct Forces {
  Plane attraction{}, repulsion{};
  double weights = 0;
};

Forces forces_on(std::size_t i, const std::vector<Plane>& y, const float* p) {
  Forces forces;
  for (std::size_t j = 0; j < y.size(); ++j) {
    const double dx = y[i][0] - y[j][0], dy = y[i][1] - y[j][1];
    const double weight = j == i ? 0 : 1 / (1 + dx * dx + dy * dy), pull = p[j] * weight, push = weight * weight;
    forces.weights += weight;
    forces.attraction[0] += pull * dx;
    forces.attraction[1] += pull * dy;
    forces.repulsion[0] += push * dx;
    forces.repulsion[1] += push * dy;
  }
  return forces;
}

}  // namespace

Tensor principal_components(const Tensor& points) {
  check_points(points, "principal_components");
  const Tensor x = points.to(torch::kCPU, torch::kFloat64);
  const Tensor centred = x - x.mean(0, /*keepdim=*/true);
  const Tensor vectors = std::get<1>(at::linalg_eigh(centred.t().matmul(centred)));  // by ascending variance
  Tensor plane = torch::zeros({x.size(0), 2}, torch::kFloat64);
  for (int64_t c = 0; c < std::min<int64_t>(2, x.size(1)); ++c) {
    const Tensor axis = centred.mv(vectors.select(1, x.size(1) - 1 - c));
    const double largest = axis[axis.abs().argmax()].item<double>();
    plane.select(1, c).copy_(largest < 0 ? -axis : axis);
  }
  return plane;
}

Tensor neighbour_probabilities(const Tensor& points, double perplexity, int threads) {
  check_points(points, "neighbour_probabilities");
  const Tensor x = points.to(torch::kCPU, torch::kFloat32);
  const Tensor norms = x.square().sum(1);
  const Tensor squared = (norms.unsqueeze(1) + norms.unsqueeze(0) - 2 * x.matmul(x.t())).clamp_min_(0).contiguous();
  // Distances of any unit: the search for the precision begins at 1.
  squared.div_(squared.mean().clamp_min(1e-30));
  const Tensor p = torch::empty_like(squared);
  const auto count = static_cast<std::size_t>(x.size(0));
  const float* const from = squared.data_ptr<float>();
  float* const to = p.data_ptr<float>();
  smooseg::detail::parallel_for(x.size(0), threads, [&](int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    fill_row(from + at * count, count, at, perplexity, to + at * count);
  });
  return p;
}

Tensor tsne(const Tensor& points, const TsneOptions& options) {
  constexpr int64_t kMostPoints = 5000;
  check_points(points, "tsne");
  const int64_t count = points.size(0);
  TORCH_CHECK(count <= kMostPoints, "tsne: expected at most ", kMostPoints, " points, got ", count);
  Tensor start = principal_components(points);
  if (count < 4) return start;
  const double perplexity = std::max(1.01, std::min(options.perplexity, static_cast<double>(count - 1) / 3));
  const Tensor near = neighbour_probabilities(points, perplexity, options.threads);
  const Tensor p = ((near + near.t()) / (2 * static_cast<double>(count))).clamp_min_(1e-12).contiguous();
  start = start / start.select(1, 0).std().clamp_min(1e-30) * 1e-4;

  const auto size = static_cast<std::size_t>(count);
  std::vector<Plane> y(size), velocity(size), gain(size, Plane{1, 1});
  for (std::size_t i = 0; i < size; ++i) {
    const double* const row = start.data_ptr<double>() + 2 * i;
    y[i] = {row[0], row[1]};
  }
  std::vector<Forces> forces(size);
  constexpr double kExaggeration = 12;
  constexpr int64_t kExaggerated = 150;
  const double rate = std::max(50.0, static_cast<double>(count) / kExaggeration / 4);
  for (int64_t step = 0; step < options.iterations; ++step) {
    smooseg::detail::parallel_for(count, options.threads, [&](int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      forces[at] = forces_on(at, y, p.data_ptr<float>() + at * size);
    });
    const double weights = std::accumulate(forces.begin(), forces.end(), 0.0,
                                           [](double sum, const Forces& force) { return sum + force.weights; });
    const double pull = step < kExaggerated ? kExaggeration : 1, momentum = step < kExaggerated ? 0.5 : 0.8;
    Plane middle{};
    for (std::size_t i = 0; i < size; ++i) {
      for (std::size_t c = 0; c < 2; ++c) {
        const double gradient = 4 * (pull * forces[i].attraction[c] - forces[i].repulsion[c] / weights);
        // Steps grow where the gradient keeps its direction.
        const bool turns = (gradient > 0) == (velocity[i][c] > 0);
        gain[i][c] = std::max(0.01, turns ? gain[i][c] * 0.8 : gain[i][c] + 0.2);
        velocity[i][c] = momentum * velocity[i][c] - rate * gain[i][c] * gradient;
        y[i][c] += velocity[i][c];
        middle[c] += y[i][c] / static_cast<double>(size);
      }
    }
    for (Plane& point : y) point = {point[0] - middle[0], point[1] - middle[1]};
    if (options.progress) options.progress();
  }
  const Tensor result = torch::empty({count, 2}, torch::kFloat64);
  auto* to = result.data_ptr<double>();
  for (const Plane& point : y) to = std::copy(point.begin(), point.end(), to);
  return result;
}

}  // namespace smooseg::app
