#pragma once

// How much memory the process takes at its peak.

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace smooseg::app {

/// The most memory that the process took at a moment of this object's life, beyond what it took before. Of the host
/// alone; elsewhere than on Linux always 0.
class PeakMemory {
 public:
  PeakMemory() : before_(status("VmRSS:")) { std::ofstream("/proc/self/clear_refs") << 5; }

  int64_t bytes() const { return std::max<int64_t>(0, status("VmHWM:") - before_); }

 private:
  /// A size in /proc/self/status.
  static int64_t status(const std::string& key) {
    std::ifstream file("/proc/self/status");
    for (std::string line; std::getline(file, line);) {
      std::istringstream words(line);
      std::string name;
      int64_t kilobytes = 0;
      if (words >> name >> kilobytes && name == key) return kilobytes * 1024;
    }
    return 0;
  }

  int64_t before_;
};

}  // namespace smooseg::app
