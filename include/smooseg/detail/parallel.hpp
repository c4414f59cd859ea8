#pragma once

// Work on several threads. Plain threads, because a header cannot count on its user's compiler knowing OpenMP.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace smooseg::detail {

/// Calls f(0), ..., f(count - 1) on up to `threads` threads. If calls throw, one of the errors is thrown here once all
/// threads have stopped: that of the lowest number that failed.
template <class F>
void parallel_for(std::int64_t count, std::int64_t threads, const F& f) {
  std::atomic<std::int64_t> next{0};
  std::mutex mutex;
  std::int64_t failed = count;
  std::exception_ptr error;
  const auto work = [&] {
    for (std::int64_t i = next++; i < count; i = next++) {
      try {
        f(i);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (i < failed) {
          failed = i;
          error = std::current_exception();
        }
        next = count;
      }
    }
  };
  std::vector<std::thread> workers;
  for (std::int64_t t = 1; t < std::min(threads, count); ++t) workers.emplace_back(work);
  work();
  for (auto& worker : workers) worker.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace smooseg::detail
