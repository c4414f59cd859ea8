#pragma once

// Where the time of a command goes. Needs no LibTorch.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <ostream>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

namespace smooseg::app {

/// Collects how long the parts of a command take: those of the thread that made the profiler, which follow one another,
/// and those of worker threads beside it.
///
///     const auto features = timed("backbone", [&] { return backbone.features(images); });
///
/// While one exists, `timed` reports to it from any thread; while none does, `timed` costs a comparison.
class Profiler {
 public:
  using Clock = std::chrono::steady_clock;

  /// @param synchronize waits for what the main thread has launched on a device; called at the end of its parts, which
  ///   would else end at once. It makes them follow one another, and so the whole slower than without a profiler.
  explicit Profiler(std::function<void()> synchronize = {});
  ~Profiler() { active_ = nullptr; }
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  /// The one that exists, or null.
  static Profiler* active() { return active_; }

  /// Notes a part of this thread that began at `begin` and ends now. `name` is a literal.
  void add(const char* name, Clock::time_point begin);

  /// A table: for each part of the main thread how often it ran, its time in all, for each step, and its share of the
  /// time since the profiler was made; "other" is what no part measured. Then the parts of the workers.
  void print(std::ostream& out, int64_t steps) const;

  /// Every part as an event of its thread, in Chrome's trace event format, which ui.perfetto.dev and chrome://tracing
  /// open; the first `kMaxEvents` of them.
  /// https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
  /// @throws std::runtime_error where the file cannot be written.
  void write_trace(const std::filesystem::path& path) const;

  static constexpr std::size_t kMaxEvents = 1000000;

 private:
  struct Event {
    const char* name;
    std::size_t thread;  // 0: the main one
    Clock::duration begin, length;
  };
  struct Total {
    int64_t count = 0;
    Clock::duration time{};
  };

  inline static std::atomic<Profiler*> active_{nullptr};

  const std::function<void()> synchronize_;
  const Clock::time_point start_ = Clock::now();
  mutable std::mutex mutex_;
  std::map<std::thread::id, std::size_t> threads_;
  std::vector<Event> events_;
  std::map<std::string, Total> main_, workers_;
};

/// What `f` returns, its time noted.
template <class F>
auto timed(const char* name, const F& f) {
  Profiler* const profiler = Profiler::active();
  if (profiler == nullptr) return f();
  const auto begin = Profiler::Clock::now();
  if constexpr (std::is_void_v<decltype(f())>) {
    f();
    profiler->add(name, begin);
  } else {
    auto result = f();
    profiler->add(name, begin);
    return result;
  }
}

}  // namespace smooseg::app
