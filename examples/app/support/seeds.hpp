#pragma once

// Where random draws come from: one seed, spread over purposes and steps.

#include <cstdint>

namespace smooseg::app {

/// What draws are for. Models are reproduced by these numbers: they never change.
enum class SeedPurpose : std::uint64_t {
  kOrder = 1,
  kInitialization = 2,
  kBackbone = 3,
  kStep = 4,
  kKMeans = 5,
  kThresholds = 6,
  kClassCount = 7
};

/// SplitMix64: a number with all of its bits mixed.
constexpr std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

/// The seed of one purpose's draws, at one step where it has several.
constexpr std::uint64_t mix_seed(std::uint64_t seed, SeedPurpose purpose, std::uint64_t step = 0) {
  return mixed(mixed(mixed(seed) ^ static_cast<std::uint64_t>(purpose)) ^ step);
}

}  // namespace smooseg::app
