#pragma once

// The log of a run, for programs to read. Needs no LibTorch.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "smooseg/io/atomic_file.hpp"

namespace smooseg::app {

/// A file of JSON objects, one a line, each with the number of its "step".
class Log {
 public:
  /// Keeps the lines up to `step` of a log that is already there, and drops the rest.
  Log(const std::filesystem::path& path, int64_t step) : path_(path) {
    std::ifstream old(path);
    std::string kept;
    for (std::string text; step > 0 && std::getline(old, text);) {
      const auto line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
      if (!line.is_object() || line.value("step", step + 1) > step) continue;
      best_miou_ = std::max(best_miou_, line.value("miou", best_miou_));
      kept += text + "\n";
    }
    io::write_file_atomically(path, [&](std::ostream& file) { file << kept; });
    stream_.open(path, std::ios::app);
  }

  /// Appends a line. @throws std::runtime_error naming the file where it cannot be written.
  void write(const nlohmann::json& line) {
    best_miou_ = std::max(best_miou_, line.value("miou", best_miou_));
    stream_ << line.dump() << std::endl;
    if (!stream_) throw std::runtime_error(path_.string() + ": cannot write the log: is the disk full?");
  }

  /// The highest "miou" of all lines, -1 where there is none.
  double best_miou() const { return best_miou_; }

 private:
  std::filesystem::path path_;
  std::ofstream stream_;
  double best_miou_ = -1;
};

}  // namespace smooseg::app
