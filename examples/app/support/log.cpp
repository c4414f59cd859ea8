#include "support/log.hpp"

#include <algorithm>
#include <stdexcept>

#include "smooseg/io/atomic_file.hpp"

namespace smooseg::app {

Log::Log(const std::filesystem::path& path, int64_t step) : path_(path) {
  std::ifstream old(path);
  std::string kept;
  for (std::string text; step > 0 && std::getline(old, text);) {
    const auto line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object() || line.value("step", step + 1) > step) continue;
    note(line);
    kept += text + "\n";
  }
  io::write_file_atomically(path, [&](std::ostream& file) { file << kept; });
  stream_.open(path, std::ios::app);
}

void Log::write(const nlohmann::json& line) {
  note(line);
  stream_ << line.dump() << std::endl;
  if (!stream_) throw std::runtime_error(path_.string() + ": cannot write the log: is the disk full?");
}

double Log::highest(const std::string& key, double otherwise) const {
  const auto found = highest_.find(key);
  return found == highest_.end() ? otherwise : found->second;
}

void Log::note(const nlohmann::json& line) {
  for (const auto& [key, value] : line.items()) {
    if (value.is_number()) highest_[key] = std::max(highest(key, value), value.get<double>());
  }
}

}  // namespace smooseg::app
