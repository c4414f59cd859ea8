#pragma once

// What several tests share.

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/types.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "catch.hpp"
#include "smooseg/io/load.hpp"

/// The folder tests/data, and the program `smooseg` ("" where it is not built). Defined in main.cpp alone, so that other
/// files compile to the same object in any folder.
extern const char* const kTestDataDir;
extern const char* const kProgram;

/// The path of tests/data/NAME.
inline std::string data_path(const std::string& name) {
  return std::string(kTestDataDir) + "/" + name;
}

/// The tensors of the published programs' outputs in tests/data/NAME.
inline smooseg::io::TensorMap golden(const std::string& name) {
  return smooseg::io::read_tensors(data_path(name));
}

/// Largest difference over the largest expected magnitude, in float64; infinite where shapes differ or a NaN appears.
inline double relative_error(const torch::Tensor& got, const torch::Tensor& expected) {
  if (got.sizes() != expected.sizes()) return INFINITY;
  if (got.numel() == 0) return 0;
  const auto wide = [](const torch::Tensor& t) { return t.detach().to(torch::kCPU, torch::kFloat64); };
  const double scale = wide(expected).abs().max().item<double>();
  const double difference = (wide(got) - wide(expected)).abs().max().item<double>();
  if (!(difference <= INFINITY)) return INFINITY;
  return difference == 0 ? 0 : difference / (scale > 0 ? scale : 1);
}

inline double relative_error(const torch::Tensor& got, double expected) {
  return relative_error(got, torch::full_like(got, expected));
}

/// A folder that is removed with all it holds at the end of the scope.
class TempDir {
 public:
  TempDir() {
    static std::atomic<int> count{0};
    path = std::filesystem::temp_directory_path() /
           ("smooseg-test-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::filesystem::path path;
};

inline std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Writes a file, with its folder where there is none. Returns its path.
inline std::string write_content(const std::filesystem::path& path, const std::string& content) {
  std::filesystem::create_directories(path.parent_path());
  std::filesystem::remove(path);  // overwriting a file in place waits for the disk on some file systems
  std::ofstream(path, std::ios::binary) << content;
  return path.string();
}

inline void pause(int64_t milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

/// Switches autocast on the CPU on or off until the end of the scope.
class AutocastOnCpu {
 public:
  explicit AutocastOnCpu(bool on) : was_excluded_(c10::impl::tls_is_dispatch_key_excluded(kKey)) {
    c10::impl::tls_set_dispatch_key_excluded(kKey, !on);
  }
  ~AutocastOnCpu() { c10::impl::tls_set_dispatch_key_excluded(kKey, was_excluded_); }
  AutocastOnCpu(const AutocastOnCpu&) = delete;
  AutocastOnCpu& operator=(const AutocastOnCpu&) = delete;

 private:
  static constexpr auto kKey = c10::DispatchKey::AutocastCPU;
  bool was_excluded_;
};

/// The first line of what `f` throws, "" if it throws nothing; the lines after it are LibTorch's backtrace.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    const std::string text = e.what();
    return text.substr(0, text.find("\nException raised from"));
  }
  return "";
}

/// Checks that the expression throws and that the message contains the text.
#define CHECK_ERROR(expression, text)                                        \
  do {                                                                       \
    const std::string smooseg_error = error_of([&] { (void)(expression); }); \
    INFO("error: \"" << smooseg_error << "\"");                              \
    CHECK(smooseg_error.find(text) != std::string::npos);                    \
  } while (false)
