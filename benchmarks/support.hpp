#pragma once

// What the benchmarks share: a device to run on, and time, arithmetic, traffic and memory of a step.

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/version.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "peak_memory.hpp"

namespace bench {

/// Where the tensors lie: --device=cuda, or the CPU.
inline torch::Device& device() {
  static torch::Device device(torch::kCPU);
  return device;
}

inline void synchronize() {
  if (device().is_cuda()) torch::cuda::synchronize();
}

/// What a step has to do at least: operations, and bytes that pass between memory and processor.
struct Work {
  double operations = 0, bytes = 0;
};

/// Runs a step again and again. Counters: FLOP/s, bytes_per_second, and peak_MB, the most memory in tensors (10^6
/// bytes) that a step holds beyond what there was before it.
template <class Step>
void measure(benchmark::State& state, const Work& work, const Step& step) {
  step();
  synchronize();
  {
    const PeakMemory memory;
    step();
    synchronize();
    state.counters["peak_MB"] = static_cast<double>(memory.bytes()) / 1e6;
  }
  for (auto _ : state) {
    step();
    synchronize();
  }
  state.counters["FLOP/s"] = benchmark::Counter(work.operations, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["bytes_per_second"] = benchmark::Counter(work.bytes, benchmark::Counter::kIsIterationInvariantRate);
}

/// A benchmark's main(): `add` registers what there is to run, now that the device is known.
template <class Add>
int run(int argc, char** argv, const Add& add) {
  at::set_num_threads(static_cast<int>(std::thread::hardware_concurrency()));
  try {
    constexpr const char* kDevice = "--device=";
    int kept = 1;
    for (int i = 1; i < argc; ++i) {
      if (std::strncmp(argv[i], kDevice, std::strlen(kDevice)) == 0) {
        device() = torch::Device(argv[i] + std::strlen(kDevice));
      } else {
        argv[kept++] = argv[i];
      }
    }
    argc = kept;
    torch::zeros({1}, device());  // there is such a device
    // From here on glibc keeps freed blocks of up to this size, as it does in any program once it has freed such a one.
    torch::empty({31 << 20}, torch::kUInt8);
    add();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::AddCustomContext("device", device().str());
    benchmark::AddCustomContext("LibTorch", TORCH_VERSION);
    benchmark::AddCustomContext("threads", std::to_string(at::get_num_threads()));
    benchmark::RunSpecifiedBenchmarks();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}

/// Wall time in milliseconds, arguments by name.
inline benchmark::internal::Benchmark* add(const char* name, void (*function)(benchmark::State&),
                                           const std::vector<std::string>& arguments) {
  return benchmark::RegisterBenchmark(name, function)
      ->ArgNames(arguments)
      ->Unit(benchmark::kMillisecond)
      ->UseRealTime();
}

}  // namespace bench
