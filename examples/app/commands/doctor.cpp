// `smooseg doctor`: what this machine and this LibTorch can do, and what to mend where they are slow.

#include <ATen/Config.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iomanip>
#include <thread>

#include "commands/command_line.hpp"
#include "settings/runtime.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/version.hpp"

namespace smooseg::app {
namespace {

/// Billions of operations per second of a square matrix product; 0 where the dtype has none on this device.
double measure_gflops(torch::Device device, torch::ScalarType dtype, int64_t size) {
  using Clock = std::chrono::steady_clock;
  try {
    const torch::NoGradGuard no_grad;
    const Tensor a = torch::rand({size, size}, device).to(dtype), b = torch::rand({size, size}, device).to(dtype);
    const auto wait = [&] {
      if (device.is_cuda()) torch::cuda::synchronize(device.index());
    };
    at::mm(a, b);
    wait();
    int64_t products = 0;
    const auto begin = Clock::now();
    double seconds = 0;
    for (; seconds < 0.3; seconds = std::chrono::duration<double>(Clock::now() - begin).count()) {
      at::mm(a, b);
      wait();
      ++products;
    }
    const auto n = static_cast<double>(size);
    return 2 * n * n * n * static_cast<double>(products) / seconds * 1e-9;
  } catch (const c10::Error&) {
    return 0;
  }
}

/// The BLAS that multiplies matrices. LibTorch's own description cannot tell where it calls the system's, but the
/// process has it loaded.
std::string blas_name() {
  if (at::hasMKL()) return "MKL";
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto path = line.find('/');
    const std::string file = line.substr(line.find_last_of('/') + 1);
    if (path != std::string::npos && file.find("blas") != std::string::npos && file.rfind("libcublas", 0) != 0) {
      return line.substr(path);
    }
  }
  return "unknown";
}

void doctor(const RuntimeSettings& settings, const Console& console) {
  std::ostream& out = console.out;
  const int initial_threads = at::get_num_threads();
  start(settings, console.err);
  const auto cores = std::max(1U, std::thread::hardware_concurrency());
  const auto line = [&](const std::string& name) -> std::ostream& { return out << std::left << std::setw(22) << name; };
  line("smooseg") << SMOOSEG_VERSION << "\n";
  line("LibTorch") << TORCH_VERSION << ", BLAS: " << blas_name() << ", MKL-DNN: " << (at::hasMKLDNN() ? "yes" : "no")
                   << "\n";
  line("cores") << cores << "\n";
  line("threads") << at::get_num_threads() << " (LibTorch by itself: " << initial_threads << ")\n";
  out << std::fixed << std::setprecision(0);
  const double float32 = measure_gflops(torch::kCPU, torch::kFloat32, 1024);
  line("float32 product") << float32 << " GFLOP/s\n";
  line("bfloat16 product") << measure_gflops(torch::kCPU, torch::kBFloat16, 1024) << " GFLOP/s\n";

  const auto devices = static_cast<int>(torch::cuda::device_count());
  line("CUDA devices") << devices << (at::hasCUDA() ? "" : " (this LibTorch is built without CUDA)") << "\n";
  for (int i = 0; i < devices; ++i) {
    const torch::Device device(torch::kCUDA, static_cast<c10::DeviceIndex>(i));
    line("  cuda:" + std::to_string(i)) << measure_gflops(device, torch::kFloat32, 4096) << " GFLOP/s float32, "
                                        << measure_gflops(device, torch::kBFloat16, 4096) << " bfloat16\n";
  }

  std::vector<std::string> advice;
  constexpr double kSlowPerThread = 20;
  if (float32 < kSlowPerThread * at::get_num_threads()) {
    advice.push_back("matrix products are slow for " + std::to_string(at::get_num_threads()) +
                     " threads: on Debian install libopenblas0-openmp (update-alternatives --display "
                     "libblas.so.3-x86_64-linux-gnu shows which BLAS is used)");
  }
  if (at::get_num_threads() < static_cast<int>(cores)) {
    advice.push_back("only " + std::to_string(at::get_num_threads()) + " of " + std::to_string(cores) +
                     " cores are used: leave --threads at 0");
  }
  if (initial_threads < static_cast<int>(cores)) {
    advice.push_back("this LibTorch starts with " + std::to_string(initial_threads) +
                     " thread(s): smooseg sets them itself; in a program of your own call at::set_num_threads");
  }
  out << "\n";
  if (advice.empty()) out << "Nothing to mend.\n";
  for (const auto& text : advice) out << "- " << text << "\n";
  out << std::flush;
}

}  // namespace

Command doctor_command() {
  return make_command("doctor", "Tell what this machine can do, and what slows it down.", doctor);
}

}  // namespace smooseg::app
