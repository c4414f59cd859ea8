#include "support/progress.hpp"

#include <unistd.h>

#include <cmath>
#include <iomanip>
#include <iostream>
#include <sstream>

namespace smooseg::app {
namespace {

/// H:MM:SS, or M:SS below an hour.
std::string clock_text(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  std::ostringstream text;
  text << std::setfill('0');
  if (s >= 3600) text << s / 3600 << ":";
  text << std::setw(s >= 3600 ? 2 : 1) << s / 60 % 60 << ":" << std::setw(2) << s % 60;
  return text.str();
}

}  // namespace

Progress::Progress(std::ostream& err, int64_t first, int64_t last)
    : err_(err), terminal_(&err == &std::cerr && isatty(STDERR_FILENO) == 1), first_(first), last_(last) {}

Progress::~Progress() {
  if (line_open_) err_ << std::endl;
}

void Progress::show(int64_t step, const std::string& what) {
  constexpr double kSecondsBetweenLines = 10;
  if (!terminal_ && step < last_ && seconds() < next_line_) return;
  next_line_ = seconds() + kSecondsBetweenLines;
  line_open_ = terminal_;
  const double eta = seconds() / static_cast<double>(step - first_) * static_cast<double>(last_ - step);
  err_ << (terminal_ ? "\r" : "") << "step " << step << "/" << last_ << "  " << what << "  ETA " << clock_text(eta)
       << (terminal_ ? "  " : "\n") << std::flush;
}

}  // namespace smooseg::app
