#pragma once

// The page of a run that is still training.

#include <chrono>
#include <filesystem>
#include <utility>

namespace smooseg::app {

/// Keeps OUT/report.html fresh: a browser that shows it loads it again by itself, and always finds a whole page.
class LivePage {
 public:
  explicit LivePage(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// Makes the page from what the folder holds, if the last one is older than a few seconds.
  void update() {
    if (std::chrono::steady_clock::now() >= next_) write(/*goes_on=*/true);
  }

  /// Makes the page that stays, which no longer loads itself.
  void finish() { write(/*goes_on=*/false); }

  std::filesystem::path path() const { return folder_ / "report.html"; }

 private:
  void write(bool goes_on);

  std::filesystem::path folder_;
  std::chrono::steady_clock::time_point next_{};
};

}  // namespace smooseg::app
