#pragma once

// How much memory LibTorch's allocators hold at once, beyond what was there before.

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

/// Counts tensors' memory, on any device, allocated and released from its construction on by this thread and by the
/// backward passes that it starts.
class PeakMemory {
 public:
  PeakMemory() : guard_(c10::DebugInfoKind::PROFILER_STATE, counter_) {}

  /// The most bytes held at any moment so far.
  int64_t bytes() const { return counter_->peak; }

 private:
  template <class T>
  struct TotalOf;
  template <class T>
  struct TotalOf<void (c10::MemoryReportingInfoBase::*)(void*, int64_t, T, T, c10::Device)> {
    using type = T;
  };
  using Total = TotalOf<decltype(&c10::MemoryReportingInfoBase::reportMemoryUsage)>::type;  // differs by release

  struct Counter : c10::MemoryReportingInfoBase {
    bool memoryProfilingEnabled() const override { return true; }
    void reportMemoryUsage(void* address, int64_t bytes, Total, Total, c10::Device) override {
      const std::lock_guard<std::mutex> lock(mutex);
      if (bytes > 0) {
        held += blocks[address] = bytes;
        peak = std::max(peak, held);
      } else if (const auto block = blocks.find(address); block != blocks.end()) {  // else: it was there before
        held -= block->second;
        blocks.erase(block);
      }
    }
    std::mutex mutex;
    std::unordered_map<void*, int64_t> blocks;
    int64_t held = 0, peak = 0;
  };

  std::shared_ptr<Counter> counter_ = std::make_shared<Counter>();
  c10::DebugInfoGuard guard_;
};
