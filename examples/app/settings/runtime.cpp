#include "settings/runtime.hpp"

#include <ATen/Parallel.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>
#include <torch/cuda.h>

#include <algorithm>
#include <exception>
#include <thread>

#include "settings/options.hpp"
#include "support/processes.hpp"

namespace smooseg::app {
namespace {

/// Those of this machine, or this process's share of them where it holds several.
int core_count() {
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, cores / static_cast<int>(process_place().local_size));
}

/// The device of a name as LibTorch writes it.
torch::Device device_named(const std::string& name) {
  try {
    return torch::Device(name);
  } catch (const std::exception&) {  // a number too large for LibTorch is a std::out_of_range
    TORCH_CHECK(false, "--device: expected auto, cpu, cuda, cuda:N or another device of LibTorch, got '", name, "'");
  }
}

}  // namespace

void add_options(CLI::App& command, RuntimeSettings& settings) {
  command.add_option("--device", settings.device, "auto, cpu, cuda, cuda:N or another device of this LibTorch");
  command.add_option("--threads", settings.threads, "number of threads; 0: all cores")->check(from_to(0, 4096));
  command
      .add_option("--precision", settings.precision,
                  "what the frozen backbone computes in; auto: bfloat16 where it is measured to be faster")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16"}));
}

void add_options(CLI::App& command, FeatureSettings& settings) {
  command.add_option("--cache", settings.cache, "folder that keeps the training crops' features for all runs")
      ->type_name("DIR");
  command.add_option("--cache-memory", settings.cache_memory, "GiB of features to keep in memory at most")
      ->check(CLI::Range(0.0, 1e6));
  command
      .add_option("--workers", settings.workers,
                  "threads that decode pictures and read features ahead, at most four a core; 0: --threads")
      ->check(from_to(0, 4096));
}

int worker_count(const FeatureSettings& settings, RuntimeSettings runtime) {
  if (settings.workers > 0) runtime.threads = settings.workers;
  return thread_count(runtime);
}

int thread_count(const RuntimeSettings& settings) {
  constexpr int kMostPerCore = 4;
  return settings.threads > 0 ? std::min(settings.threads, kMostPerCore * core_count()) : core_count();
}

torch::Device start(const RuntimeSettings& settings, std::ostream& err) {
  const int threads = thread_count(settings);
  if (settings.threads > threads) {
    err << "--threads " << settings.threads << " is too many for " << core_count() << " cores: " << threads << " it is"
        << std::endl;
  }
  // Debian's LibTorch starts with one thread.
  at::set_num_threads(threads);
  const std::string& name = settings.device;
  if (name == "auto" && torch::cuda::device_count() == 0) return torch::kCPU;
  const torch::Device device = device_named(name == "auto" ? "cuda" : name);
  if (device.is_cpu()) return torch::kCPU;
  const int devices =
      c10::impl::hasDeviceGuardImpl(device.type()) ? c10::impl::getDeviceGuardImpl(device.type())->deviceCount() : 0;
  // Each process of a machine gets another one.
  const auto local = static_cast<c10::DeviceIndex>(process_place().local_rank % std::max(devices, 1));
  const auto index = device.has_index() ? device.index() : local;
  TORCH_CHECK(index < devices, "--device: ", name, " is not there: this LibTorch sees ", devices, " ",
              c10::DeviceTypeName(device.type()), " devices");
  return {device.type(), index};
}

}  // namespace smooseg::app
