#pragma once

// Work on several threads: the library's one way to it. at::parallel_for is a template that is serial unless the user's
// own file is compiled with OpenMP; these plain threads need nothing of the user's flags.

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace smooseg::detail {

/// Threads that sleep until there is work. The caller of `run` works too and never waits for a thread that has not
/// begun, so that a busy machine costs little. Several callers may run at a time; they share the threads.
class ThreadPool {
 public:
  /// The process's pool. It is never destroyed, since its threads may outlive every static object.
  static ThreadPool& instance() {
    static ThreadPool* const pool = new ThreadPool;
    return *pool;
  }

  /// Whether this thread is inside a call of `run`.
  static bool& is_working() {
    thread_local bool working = false;
    return working;
  }

  /// Calls f(0), ..., f(count - 1) on this thread and up to `threads - 1` others.
  template <class F>
  void run(std::int64_t count, std::int64_t threads, const F& f) {
    Job job(
        count, [](const void* function, std::int64_t i) { (*static_cast<const F*>(function))(i); }, &f);
    post(job, std::min(threads, count) - 1);
    is_working() = true;
    job.work();
    is_working() = false;
    withdraw(job);
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  using Call = void (*)(const void* function, std::int64_t i);

  /// The calls of one `run`, on its stack.
  struct Job {
    Job(std::int64_t calls, Call f, const void* object) : count(calls), call(f), function(object), failed(calls) {}

    /// Makes calls that no other thread has begun, until there are none.
    void work() {
      for (std::int64_t i = next++; i < count; i = next++) {
        try {
          call(function, i);
        } catch (...) {
          const std::lock_guard<std::mutex> lock(error_mutex);
          if (i < failed) {
            failed = i;
            error = std::current_exception();
          }
          next = count;
        }
      }
    }

    const std::int64_t count;
    const Call call;
    const void* const function;
    std::atomic<std::int64_t> next{0};
    std::atomic<std::int64_t> helpers{0};  // threads of the pool at work on it; changes under the pool's mutex
    std::int64_t wanted = 0;               // threads that may still join; under the pool's mutex
    std::mutex error_mutex;
    std::int64_t failed;  // the lowest call that failed
    std::exception_ptr error;
  };

  void post(Job& job, std::int64_t wanted) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      try {
        for (; threads_ < wanted; ++threads_) std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {  // the system gives no more: those that there are will do
      }
      job.wanted = wanted;
      jobs_.push_back(&job);
      ++posted_;
    }
    for (std::int64_t i = 0; i < wanted; ++i) wake_.notify_one();
  }

  /// Lets no more threads join, and waits for those that have.
  void withdraw(Job& job) {
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
    if (job.helpers == 0) return;
    lock.unlock();
    spin([&] { return job.helpers == 0; });
    lock.lock();
    done_.wait(lock, [&] { return job.helpers == 0; });
  }

  /// A thread of the pool.
  void serve() {
    is_working() = true;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      const auto found = std::find_if(jobs_.begin(), jobs_.end(), [](const Job* job) { return job->wanted > 0; });
      if (found != jobs_.end()) {
        Job& job = **found;
        --job.wanted;
        ++job.helpers;
        lock.unlock();
        job.work();
        lock.lock();
        if (--job.helpers == 0) done_.notify_all();
        continue;
      }
      const std::int64_t posted = posted_;
      lock.unlock();
      const bool more = spin([&] { return posted_ != posted; });
      lock.lock();
      if (!more) wake_.wait(lock, [&] { return posted_ != posted; });
    }
  }

  /// Waits for a condition without sleeping, for as long as it takes to fall asleep and be woken. Whether it came true.
  template <class Condition>
  static bool spin(const Condition& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(20);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::yield();
    }
    return true;
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<Job*> jobs_;  // those that threads may join
  std::atomic<std::int64_t> posted_{0};
  std::int64_t threads_ = 0;
};

/// Calls f(0), ..., f(count - 1) on up to `threads` threads; one after the other on this one where it is part of a
/// parallel region already, of ours or of LibTorch's. Calls must not depend on each other. If calls throw, one of the
/// errors is thrown here once all threads have stopped: that of the lowest number that failed.
template <class F>
void parallel_for(std::int64_t count, std::int64_t threads, const F& f) {
  if (count > 1 && threads > 1 && !ThreadPool::is_working() && !at::in_parallel_region()) {
    return ThreadPool::instance().run(count, threads, f);
  }
  for (std::int64_t i = 0; i < count; ++i) f(i);
}

/// The same on as many threads as LibTorch uses.
template <class F>
void parallel_for(std::int64_t count, const F& f) {
  parallel_for(count, at::get_num_threads(), f);
}

}  // namespace smooseg::detail
