#pragma once

// Points of many dimensions on a plane.

#include <cstdint>
#include <functional>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// The first two principal components. Of each, the coordinate of the largest magnitude is positive, so that the same
/// points always lie the same way.
/// @param points (N,D), floating, N >= 1. @return (N,2) float64.
Tensor principal_components(const Tensor& points);

struct TsneOptions {
  double perplexity = 30;  ///< at most a third of the other points
  int64_t iterations = 500;
  int threads = 1;                      ///< the result does not depend on it
  std::function<void()> progress = {};  ///< called after each iteration
};

/// What t-SNE keeps: how likely each point takes each other one as its neighbour, by a Gaussian of their distance that is
/// as wide as the perplexity (the exponential of a row's entropy) asks for.
/// @param points (N,D), floating, N >= 2. @param perplexity above 1, below the number of other points.
/// @return (N,N) float32; rows sum to 1, the diagonal is 0.
Tensor neighbour_probabilities(const Tensor& points, double perplexity, int threads = 1);

/// Exact t-SNE (van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008), which begins with the principal
/// components and draws nothing at random. Takes O(N^2) time and memory: 100 MB for 5000 points.
/// @param points (N,D), floating, 1 <= N <= 5000. @return (N,2) float64.
/// @throws c10::Error for other shapes, and points that are not finite.
Tensor tsne(const Tensor& points, const TsneOptions& options = {});

}  // namespace smooseg::app
