#pragma once

// How far a long command has come, for people to read. Needs no LibTorch.

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>

namespace smooseg::app {

/// "step 3/10  WHAT  ETA 0:07": on a terminal one line that is written over again and again; elsewhere a new line every
/// ten seconds and one at the end.
class Progress {
 public:
  /// @param first steps done before now. @param last steps in all.
  Progress(std::ostream& err, int64_t first, int64_t last)
      : err_(err), terminal_(&err == &std::cerr && isatty(STDERR_FILENO) == 1), first_(first), last_(last) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (line_open_) err_ << std::endl;
  }

  void show(int64_t step, const std::string& what) {
    constexpr double kSecondsBetweenLines = 10;
    if (!terminal_ && step < last_ && seconds() < next_line_) return;
    next_line_ = seconds() + kSecondsBetweenLines;
    line_open_ = terminal_;
    const auto left =
        static_cast<int64_t>(seconds() / static_cast<double>(step - first_) * static_cast<double>(last_ - step));
    std::ostringstream eta;
    eta << std::setfill('0');
    if (left >= 3600) eta << left / 3600 << ":" << std::setw(2);
    eta << left / 60 % 60 << ":" << std::setw(2) << left % 60;
    err_ << (terminal_ ? "\r" : "") << "step " << step << "/" << last_ << "  " << what << "  ETA " << eta.str()
         << (terminal_ ? "  " : "\n") << std::flush;
  }

  /// Since the object was made.
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;

  std::ostream& err_;
  const bool terminal_;
  const int64_t first_, last_;
  const Clock::time_point start_ = Clock::now();
  double next_line_ = 0;    // when, in seconds
  bool line_open_ = false;  // on a terminal
};

}  // namespace smooseg::app
