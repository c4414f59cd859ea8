#pragma once

// Where and on how many threads a command computes, and where it keeps features.

#include <torch/types.h>

#include <CLI/App.hpp>
#include <ostream>
#include <string>

namespace smooseg::app {

struct RuntimeSettings {
  std::string device = "auto";
  int threads = 0;                 ///< 0: all cores
  std::string precision = "auto";  ///< of the backbone: auto, float32 or bfloat16
};

struct FeatureSettings {
  std::string cache;  ///< folder; empty: none
  double cache_memory = 2;
  int workers = 0;  ///< 0: as many as threads
};

void add_options(CLI::App& command, RuntimeSettings& settings);
void add_options(CLI::App& command, FeatureSettings& settings);

/// Sets the number of threads and picks the device: CUDA for `auto` where there is one, for each of several processes of
/// a machine another.
/// @param err gets a line where more threads are asked for than `thread_count` gives.
/// @throws c10::Error for an unknown device, or CUDA where there is none.
torch::Device start(const RuntimeSettings& settings, std::ostream& err);

/// The number of threads that `start` sets: at most four times as many as there are cores, since hundreds of threads
/// on a few cores come to a standstill.
int thread_count(const RuntimeSettings& settings);

/// The number of threads that decode pictures and read features ahead, likewise at most four a core.
int worker_count(const FeatureSettings& settings, RuntimeSettings runtime);

}  // namespace smooseg::app
