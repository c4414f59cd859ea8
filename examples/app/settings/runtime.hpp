#pragma once

// Where and on how many threads a command computes.

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

void add_options(CLI::App& command, RuntimeSettings& settings);

/// Sets the number of threads and picks the device: CUDA for `auto` where there is one.
/// @param err gets a line where more threads are asked for than `thread_count` gives.
/// @throws c10::Error for an unknown device, or CUDA where there is none.
torch::Device start(const RuntimeSettings& settings, std::ostream& err);

/// The number of threads that `start` sets: at most four times as many as there are cores, since hundreds of threads
/// on a few cores come to a standstill.
int thread_count(const RuntimeSettings& settings);

}  // namespace smooseg::app
