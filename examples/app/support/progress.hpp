#pragma once

// How far a long command has come, for people to read. Needs no LibTorch.

#include <chrono>
#include <cstdint>
#include <ostream>
#include <string>

namespace smooseg::app {

/// "step 3/10  WHAT  ETA 0:07": one line, written over again and again, on a terminal; elsewhere a new line every ten
/// seconds and one at the end.
class Progress {
 public:
  /// @param first steps done before now. @param last steps in all.
  Progress(std::ostream& err, int64_t first, int64_t last);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(int64_t step, const std::string& what);

  /// Since the object was made.
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;

  std::ostream& err_;
  const bool terminal_;
  const int64_t first_, last_;
  const Clock::time_point start_ = Clock::now();
  double next_line_ = 0;    // when, in seconds
  bool line_open_ = false;  // on a terminal, until its end is written
};

}  // namespace smooseg::app
