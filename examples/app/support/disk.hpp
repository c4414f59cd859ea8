#pragma once

// Folders, and sizes of files. Needs no LibTorch.

#include <filesystem>
#include <iomanip>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>

namespace smooseg::app {

/// Makes the folder that an option names, and those above it, where they are not there yet.
/// @throws std::runtime_error naming the option and the folder where it cannot be made.
inline void make_folder(const std::filesystem::path& folder, const std::string& option) {
  std::error_code error, unused;
  std::filesystem::create_directories(folder, error);
  if (std::filesystem::is_directory(folder, unused)) return;
  throw std::runtime_error(option + ": cannot create the folder " + folder.string() + ": " + error.message());
}

/// Such as "88 MB".
inline std::string readable_bytes(double bytes) {
  const char* unit = "bytes";
  for (const char* larger : {"kB", "MB", "GB", "TB"}) {
    if (bytes < 1000) break;
    bytes /= 1000;
    unit = larger;
  }
  std::ostringstream text;
  text << std::fixed << std::setprecision(bytes < 10 ? 1 : 0) << bytes << " " << unit;
  return text.str();
}

}  // namespace smooseg::app
