#pragma once

// Memory for large tensors that come again with every step.

#include <ATen/Functions.h>
#include <c10/core/Storage.h>
#include <torch/types.h>

#include <cstddef>
#include <mutex>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// Keeps the memory of the last tensor it gave for the next of that size: on a CPU the system hands memory out page by
/// page, which takes longer than what is computed in it (bench_step). Copies share nothing. Safe to use from several
/// threads.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) {}
  Workspace& operator=(const Workspace&) { return *this; }
  ~Workspace() = default;

  /// A contiguous tensor whose elements are not set, in the memory of the last one where nothing refers to that.
  Tensor take(at::IntArrayRef sizes, const torch::TensorOptions& options) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::size_t bytes = torch::elementSize(torch::typeMetaToScalarType(options.dtype()));
    for (const int64_t size : sizes) bytes *= static_cast<std::size_t>(size);
    if (storage_ && storage_.unique() && storage_.nbytes() == bytes && storage_.device() == options.device()) {
      return torch::empty({0}, options).set_(storage_).view(sizes);
    }
    const Tensor fresh = torch::empty(sizes, options);
    storage_ = fresh.storage();
    return fresh;
  }

  /// Gives the memory back, now or when the last tensor in it ends.
  void release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    storage_ = {};
  }

 private:
  std::mutex mutex_;
  c10::Storage storage_;
};

}  // namespace smooseg::detail
