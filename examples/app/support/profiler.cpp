#include "support/profiler.hpp"

#include <algorithm>
#include <iomanip>
#include <utility>

#include "smooseg/io/atomic_file.hpp"

namespace smooseg::app {
namespace {

double seconds(Profiler::Clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

}  // namespace

Profiler::Profiler(std::function<void()> synchronize) : synchronize_(std::move(synchronize)) {
  threads_[std::this_thread::get_id()] = 0;
  active_ = this;
}

void Profiler::add(const char* name, Clock::time_point begin) {
  std::unique_lock<std::mutex> lock(mutex_);
  const std::size_t thread = threads_.try_emplace(std::this_thread::get_id(), threads_.size()).first->second;
  if (thread == 0 && synchronize_) {
    lock.unlock();
    synchronize_();
    lock.lock();
  }
  const auto length = Clock::now() - begin;
  Total& total = (thread == 0 ? main_ : workers_)[name];
  ++total.count;
  total.time += length;
  if (events_.size() < kMaxEvents) events_.push_back({name, thread, begin - start_, length});
}

void Profiler::print(std::ostream& out, int64_t steps) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const double all = seconds(Clock::now() - start_);
  const auto flags = out.flags();
  const auto precision = out.precision();
  const auto row = [&](const std::string& name, const std::string& calls, double time, bool share) {
    out << std::left << std::setw(14) << name << std::right << std::setw(9) << calls << std::fixed
        << std::setprecision(3) << std::setw(11) << time << std::setw(11)
        << 1000 * time / static_cast<double>(std::max<int64_t>(steps, 1));
    if (share) out << std::setprecision(1) << std::setw(8) << 100 * time / all << " %";
    out << "\n";
  };
  const auto rows = [&](const std::map<std::string, Total>& totals, bool share) {
    std::vector<std::pair<std::string, Total>> sorted(totals.begin(), totals.end());
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const auto& a, const auto& b) { return a.second.time > b.second.time; });
    double sum = 0;
    for (const auto& [name, total] : sorted) {
      row(name, std::to_string(total.count), seconds(total.time), share);
      sum += seconds(total.time);
    }
    return sum;
  };
  out << std::left << std::setw(14) << "part" << std::right << std::setw(9) << "calls" << std::setw(11) << "seconds"
      << std::setw(11) << "ms a step" << std::setw(10) << "share"
      << "\n";
  const double measured = rows(main_, true);
  row("other", "", std::max(0.0, all - measured), true);
  row("all", "", all, true);
  if (!workers_.empty()) out << "beside it, on " << threads_.size() - 1 << " worker threads:\n";
  rows(workers_, false);
  out.flags(flags);
  out.precision(precision);
}

void Profiler::write_trace(const std::filesystem::path& path) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto microseconds = [](Clock::duration time) {
    return std::chrono::duration<double, std::micro>(time).count();
  };
  io::write_file_atomically(path, [&](std::ostream& file) {
    file << std::fixed << std::setprecision(3) << "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
    for (std::size_t thread = 0; thread < threads_.size(); ++thread) {
      file << (thread > 0 ? ",\n" : "\n") << R"({"name":"thread_name","ph":"M","pid":1,"tid":)" << thread
           << R"(,"args":{"name":")" << (thread == 0 ? "main" : "worker " + std::to_string(thread)) << "\"}}";
    }
    for (const Event& event : events_) {
      file << ",\n{\"name\":\"" << event.name << R"(","ph":"X","pid":1,"tid":)" << event.thread
           << ",\"ts\":" << microseconds(event.begin) << ",\"dur\":" << microseconds(event.length) << "}";
    }
    file << "\n]}\n";
  });
}

}  // namespace smooseg::app
