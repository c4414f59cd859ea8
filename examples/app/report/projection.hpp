#pragma once

// Points of many dimensions on a plane.

#include <cstdint>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// The first two principal components. Of each, the coordinate of the largest magnitude is positive, so that the same
/// points always lie the same way.
/// @param points (N,D), floating, N >= 1. @return (N,2) float64.
Tensor principal_components(const Tensor& points);

struct TsneOptions {
  double perplexity = 30;  ///< at most a third of the other points
  int64_t iterations = 500;
  int threads = 1;  ///< the result does not depend on it
};

/// Exact t-SNE (van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008), which begins with the principal
/// components and draws nothing at random. Takes O(N^2) time and memory: 100 MB for 5000 points.
/// @param points (N,D), floating, 1 <= N <= 5000. @return (N,2) float64.
/// @throws c10::Error for other shapes, and points that are not finite.
Tensor tsne(const Tensor& points, const TsneOptions& options = {});

}  // namespace smooseg::app
