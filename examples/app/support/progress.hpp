#pragma once

// How far a long command has come, for people to read. Needs no LibTorch.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iomanip>
#include <ostream>
#include <sstream>
#include <string>

#include "support/terminal.hpp"

namespace smooseg::app {

/// Where `err` is a terminal one line that is written over again and again:
/// "step 30/100 [###.......]  12.3/s  ETA 0:05  WHAT"; elsewhere "step 30/100  WHAT  ETA 0:05", a new line every ten
/// seconds and one at the end.
class Progress {
 public:
  /// @param first steps done before now. @param last steps in all.
  Progress(std::ostream& err, int64_t first, int64_t last) : Progress(err, first, last, terminal_of(err)) {}
  Progress(std::ostream& err, int64_t first, int64_t last, const Terminal& terminal)
      : err_(err), terminal_(terminal), first_(first), last_(last) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() {
    if (line_open_) err_ << std::endl;
  }

  void show(int64_t step, const std::string& what) {
    constexpr double kSecondsBetweenLines = 10;
    if (!terminal_.is_terminal && step < last_ && seconds() < next_line_) return;
    next_line_ = seconds() + kSecondsBetweenLines;
    line_open_ = terminal_.is_terminal;
    const std::string count = "step " + std::to_string(step) + "/" + std::to_string(last_);
    const auto done = static_cast<double>(step - first_), left = static_cast<double>(last_ - step);
    const std::string eta = "ETA " + time_text(static_cast<int64_t>(seconds() / std::max(done, 1.0) * left));
    if (!terminal_.is_terminal) {
      err_ << count << "  " << what << "  " << eta << std::endl;
      return;
    }
    std::ostringstream line;
    line << count << " " << bar(step) << std::fixed << std::setprecision(1) << "  " << done / std::max(seconds(), 1e-9)
         << "/s  " << eta << "  " << what;
    // A line that is longer than the terminal is wide could not be written over.
    const auto width = static_cast<std::size_t>(std::max(terminal_.columns - 1, 1));
    err_ << "\r" << line.str().substr(0, width) << "\x1b[K" << std::flush;
  }

  /// Since the object was made.
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;

  std::string bar(int64_t step) const {
    constexpr int64_t kWidth = 24;
    const auto filled = static_cast<std::size_t>(last_ > 0 ? kWidth * step / last_ : 0);
    return "[" + std::string(filled, '#') + std::string(kWidth - filled, '.') + "]";
  }

  static std::string time_text(int64_t seconds) {
    std::ostringstream text;
    text << std::setfill('0');
    if (seconds >= 3600) text << seconds / 3600 << ":" << std::setw(2);
    text << seconds / 60 % 60 << ":" << std::setw(2) << seconds % 60;
    return text.str();
  }

  std::ostream& err_;
  const Terminal terminal_;
  const int64_t first_, last_;
  const Clock::time_point start_ = Clock::now();
  double next_line_ = 0;    // when, in seconds
  bool line_open_ = false;  // on a terminal
};

}  // namespace smooseg::app
