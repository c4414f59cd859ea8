#include "settings/runtime.hpp"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <torch/cuda.h>

#include <algorithm>
#include <thread>

#include "settings/options.hpp"

namespace smooseg::app {
namespace {

int core_count() {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

void add_options(CLI::App& command, RuntimeSettings& settings) {
  command.add_option("--device", settings.device, "auto, cpu, cuda or cuda:N");
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
  const int devices = static_cast<int>(torch::cuda::device_count());
  const std::string& name = settings.device;
  if (name == "cpu" || (name == "auto" && devices == 0)) return torch::kCPU;
  if (name == "auto") return {torch::kCUDA, 0};
  const std::string number = name == "cuda" ? "0" : name.rfind("cuda:", 0) == 0 ? name.substr(5) : "";
  const bool is_number = !number.empty() && number.size() < 4 && std::all_of(number.begin(), number.end(), ::isdigit);
  TORCH_CHECK(is_number, "--device: expected auto, cpu, cuda or cuda:N, got '", name, "'");
  const int index = std::stoi(number);
  TORCH_CHECK(index < devices, "--device: ", name, " is not there: this LibTorch sees ", devices, " CUDA devices");
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(index)};
}

}  // namespace smooseg::app
