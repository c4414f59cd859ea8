#pragma once

// The log of a run, for programs to read. Needs no LibTorch.

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace smooseg::app {

/// A file of JSON objects, one a line, each with the number of its "step".
class Log {
 public:
  /// Keeps the lines up to `step` of a log that is already there, and drops the rest.
  Log(const std::filesystem::path& path, int64_t step);

  /// Appends a line. @throws std::runtime_error naming the file where it cannot be written.
  void write(const nlohmann::json& line);

  /// The highest number under a key in all lines, or `otherwise` where no line has it.
  double highest(const std::string& key, double otherwise) const;

 private:
  void note(const nlohmann::json& line);

  std::filesystem::path path_;
  std::ofstream stream_;
  std::map<std::string, double> highest_;
};

}  // namespace smooseg::app
