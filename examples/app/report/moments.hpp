#pragma once

// What several runs have in common. Needs no LibTorch.

#include <cmath>
#include <numeric>
#include <vector>

namespace smooseg::app {

struct Moments {
  double mean = 0, deviation = 0;
};

/// Mean and standard deviation (of a sample: n - 1) of at least one number.
inline Moments moments_of(const std::vector<double>& values) {
  const auto count = static_cast<double>(values.size());
  Moments moments;
  moments.mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  for (const double value : values) moments.deviation += (value - moments.mean) * (value - moments.mean);
  moments.deviation = values.size() > 1 ? std::sqrt(moments.deviation / (count - 1)) : 0;
  return moments;
}

}  // namespace smooseg::app
